#include "model/head_shards.h"

namespace wuneng {

HeadShards HeadShards::make(const HeadCounts& counts, int ranks, int rank) {
  const auto& [H, G, N] = counts;
  require(ranks <= H, "tp = {}: more tensor-parallel ranks than the model's {} heads", ranks, H);
  HeadShards out;
  out.rank = rank;
  for (int r = 0; r < ranks; ++r) {
    const Range h = shard_range(H, ranks, r);
    out.heads.push_back(h);
    out.kv.push_back({h.begin * G / H, (h.end - 1) * G / H + 1});
    out.state.push_back(N ? Range{h.begin * N / H, (h.end - 1) * N / H + 1} : Range{});
  }
  const Range mine = out.heads[rank], kv = out.kv[rank], state = out.state[rank];
  for (int64_t h = mine.begin; h < mine.end; ++h) {
    out.kv_of_head.push_back(static_cast<int>(h * G / H - kv.begin));
    if (N) out.state_of_head.push_back(static_cast<int>(h * N / H - state.begin));
  }
  for (int64_t s = state.begin; s < state.end; ++s) {
    out.kv_of_state.push_back(static_cast<int>(s * G / N - kv.begin));
  }
  for (int64_t s = 0; s < N; ++s) {
    int holders = 0;
    for (const Range& r : out.state) holders += r.begin <= s && s < r.end;
    if (holders < 2) continue;
    if (state.begin <= s && s < state.end)
      out.shared_states.push_back({static_cast<int>(s - state.begin), out.shared_slots});
    ++out.shared_slots;
  }
  return out;
}

}  // namespace wuneng
