// Tables that describe a packed batch to the attention kernels (notation of kernels/attention.h): the segment
// of each tile of query rows, and the segments that attend to each tile of keys.
#pragma once
#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/attention.h"
#include "kernels/cuda/common/upload.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {

// AttentionSegment in device memory.
struct DeviceSegment {
  int32_t q_begin, q_count, k_begin, offset;
};
__device__ inline DeviceSegment segment_at(const int32_t* segments, int32_t s) {
  const int32_t* at = segments + 4 * s;
  return {at[0], at[1], at[2], at[3]};
}

// In device memory, all i32. Tiles with the most work come first, for load balance at the end of the launch.
struct AttentionTables {
  Tensor segments;     // [segments, 4]
  Tensor query_tiles;  // [query tiles, 2]: segment, first query row in it
  Tensor key_tiles;    // [key tiles]: indices of the tiles that some segment attends to
  // CSR: segment_indices[segment_offsets[b] .. segment_offsets[b + 1]) attend to key tile b.
  Tensor segment_offsets;  // [all key tiles + 1]
  Tensor segment_indices;
  Tensor kv_head;     // [H]
  Tensor first_head;  // [G + 1]: key/value head g has query heads first_head[g] .. first_head[g + 1]
  unsigned query_tile_count = 0, key_tile_count = 0;

  // With tiles of query_rows rows of q and key_rows rows of k and v [Tk, G, D].
  AttentionTables(const std::vector<AttentionSegment>& all, const std::vector<int>& heads, int64_t Tk,
                  int64_t G, int64_t query_rows, int64_t key_rows, Device device) {
    std::vector<int32_t> flat;
    struct QueryTile {
      int32_t segment, first;
      int64_t keys;
    };
    std::vector<QueryTile> tiles;
    std::vector<std::vector<int32_t>> by_tile(wuneng::cuda::blocks_for(Tk, key_rows));
    std::vector<int64_t> work(by_tile.size());  // query rows that attend to a tile
    for (size_t n = 0; n < all.size(); ++n) {
      const AttentionSegment& s = all[n];
      for (const int64_t x : {s.q_begin, s.q_count, s.k_begin, s.offset})
        flat.push_back(static_cast<int32_t>(x));
      for (int64_t at = 0; at < s.q_count; at += query_rows)
        tiles.push_back({static_cast<int32_t>(n), static_cast<int32_t>(at),
                         s.offset + std::min(s.q_count, at + query_rows)});
      const int64_t end = s.k_begin + s.offset + s.q_count;
      for (int64_t b = s.k_begin / key_rows; s.q_count && b * key_rows < end; ++b) {
        by_tile[b].push_back(static_cast<int32_t>(n));
        work[b] += s.q_count - std::max(int64_t{0}, b * key_rows - s.k_begin - s.offset);
      }
    }
    std::stable_sort(tiles.begin(), tiles.end(), [](auto& a, auto& b) { return a.keys > b.keys; });
    std::vector<int32_t> query, see, first = {0}, order;
    for (const QueryTile& tile : tiles) query.insert(query.end(), {tile.segment, tile.first});
    for (size_t b = 0; b < by_tile.size(); ++b) {
      if (!by_tile[b].empty()) order.push_back(static_cast<int32_t>(b));
      see.insert(see.end(), by_tile[b].begin(), by_tile[b].end());
      first.push_back(static_cast<int32_t>(see.size()));
    }
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return work[a] > work[b]; });
    std::vector<int32_t> groups(G + 1);
    for (const int g : heads) ++groups[g + 1];
    std::partial_sum(groups.begin(), groups.end(), groups.begin());
    query_tile_count = static_cast<unsigned>(tiles.size());
    key_tile_count = static_cast<unsigned>(order.size());
    const auto to_device = [&](const std::vector<int32_t>& table) { return upload(table, device); };
    segments = to_device(flat), query_tiles = to_device(query), key_tiles = to_device(order);
    segment_offsets = to_device(first), segment_indices = to_device(see);
    kv_head = to_device({heads.begin(), heads.end()}), first_head = to_device(groups);
  }
};

}  // namespace wuneng::kernels::cuda
