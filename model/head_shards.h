// HeadShards: which query, key/value and state heads a tensor-parallel rank holds (docs/model.md, "Tensor
// parallelism").
//
// Query heads are split as evenly as they go, 28 on 8 ranks as 3 and 4. A rank also holds every key/value
// head and every state head that its query heads use; neighbours may hold the same one.
#pragma once
#include <vector>

#include "parallel/parameter.h"
#include "parallel/tensor_parallel.h"

namespace wuneng {

struct HeadCounts {
  int64_t heads, kv_heads, state_heads = 0;  // 0: a layer without states
};

struct HeadShards {
  // Of every rank.
  std::vector<Range> heads, kv, state;
  // Of this rank, in local numbers.
  int rank = 0;
  std::vector<int> kv_of_head;            // [local H]
  std::vector<int> state_of_head;         // [local H]; empty for a layer without states
  std::vector<int> kv_of_state;           // [local N]
  std::vector<SharedHead> shared_states;  // local state heads that other ranks hold too
  int shared_slots = 0;                   // such heads over all ranks

  static HeadShards make(const HeadCounts& counts, int ranks, int rank);
  int64_t local_heads() const { return heads[rank].size(); }
  int64_t local_kv() const { return kv[rank].size(); }
  int64_t local_states() const { return state[rank].size(); }
};

}  // namespace wuneng
