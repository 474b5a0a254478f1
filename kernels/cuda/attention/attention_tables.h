// What attention's kernels are told of a packed batch (notation of kernels/attention.h): which tile of query
// rows is whose, and which segments see a tile of keys.
#pragma once
#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/attention.h"
#include "kernels/cuda/common/upload.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {

// A segment as the GPU has it.
struct SeenRows {
  int32_t q_begin, q_count, k_begin, offset;
};
__device__ inline SeenRows segment_at(const int32_t* segments, int32_t s) {
  const int32_t* at = segments + 4 * s;
  return {at[0], at[1], at[2], at[3]};
}

// On the GPU, all i32. The tiles that have most to do come first, so that the last ones to end are short.
struct AttentionTables {
  Tensor segments;     // [segments, 4]
  Tensor query_tiles;  // [query tiles, 2]: segment and first query in it
  Tensor key_tiles;    // [key tiles]: which, of those that any segment sees
  Tensor first_of;     // [all key tiles + 1]: key tile b is seen by seeing[first_of[b] .. first_of[b + 1])
  Tensor seeing;
  Tensor kv_head;     // [H]
  Tensor first_head;  // [G + 1]: key/value head g has query heads first_head[g] .. first_head[g + 1]
  unsigned query_tile_count = 0, key_tile_count = 0;

  // Tiles of so many rows of q, and of k and v [Tk, G, D].
  AttentionTables(const std::vector<AttentionSegment>& all, const std::vector<int>& heads, int64_t Tk,
                  int64_t G, int64_t query_rows, int64_t key_rows, Device device) {
    std::vector<int32_t> flat;
    struct QueryTile {
      int32_t segment, first;
      int64_t keys;
    };
    std::vector<QueryTile> tiles;
    std::vector<std::vector<int32_t>> by_tile(wuneng::cuda::blocks_for(Tk, key_rows));
    std::vector<int64_t> work(by_tile.size());  // query rows that see a tile
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
    const auto put = [&](const std::vector<int32_t>& table) { return upload(table, device); };
    segments = put(flat), query_tiles = put(query), key_tiles = put(order), first_of = put(first);
    seeing = put(see), kv_head = put({heads.begin(), heads.end()}), first_head = put(groups);
  }
};

}  // namespace wuneng::kernels::cuda
