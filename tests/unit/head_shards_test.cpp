#include "model/head_shards.h"

#include <gmock/gmock.h>

#include "model/parameter_store.h"

namespace wuneng::head_shards_test {
namespace {

TEST(HeadShards, EveryRankHoldsWhatItsQueryHeadsUse) {
  for (const auto& [H, G, N] :
       {std::array<int64_t, 3>{28, 4, 4}, {6, 2, 2}, {6, 2, 6}, {40, 8, 8}, {14, 2, 2}, {3, 3, 3}})
    for (int ranks = 1; ranks <= std::min<int64_t>(H, 16); ++ranks) {
      int64_t next = 0, smallest = H, largest = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const HeadShards cut = HeadShards::make({H, G, N}, ranks, rank);
        EXPECT_EQ(cut.heads[rank].begin, next);
        next = cut.heads[rank].end;
        smallest = std::min(smallest, cut.local_heads());
        largest = std::max(largest, cut.local_heads());
        for (int64_t i = 0; i < cut.local_heads(); ++i) {
          const int64_t h = cut.heads[rank].begin + i;
          EXPECT_EQ(cut.kv[rank].begin + cut.kv_of_head[i], h / (H / G));
          EXPECT_EQ(cut.state[rank].begin + cut.state_of_head[i], h / (H / N));
        }
        for (int64_t i = 0; i < cut.local_states(); ++i)
          EXPECT_EQ(cut.kv[rank].begin + cut.kv_of_state[i], (cut.state[rank].begin + i) / (N / G));
        EXPECT_LT(cut.kv_of_head.back(), cut.local_kv());
        EXPECT_LT(cut.state_of_head.back(), cut.local_states());
      }
      EXPECT_EQ(next, H);
      EXPECT_LE(largest - smallest, 1);
    }
}

TEST(HeadShards, SharedStateHeadsHaveOneSlotForAllHolders) {
  // 6 heads on 4 ranks: 1, 2, 1, 2; state head 0 (heads 0 to 2) is on ranks 0 and 1, state head 1 on ranks 2
  // and 3.
  for (int rank = 0; rank < 4; ++rank) {
    const HeadShards cut = HeadShards::make({6, 2, 2}, 4, rank);
    ASSERT_EQ(cut.shared_slots, 2);
    ASSERT_EQ(cut.shared_states.size(), 1u);
    EXPECT_EQ(cut.shared_states[0].local, 0);
    EXPECT_EQ(cut.shared_states[0].slot, rank / 2);
  }
  EXPECT_EQ(HeadShards::make({40, 8, 8}, 8, 3).shared_slots, 0);
}

TEST(HeadShards, RefusesMoreRanksThanHeads) { EXPECT_THROW(HeadShards::make({4, 2, 2}, 5, 0), Error); }

TEST(ParameterStore, OverlappingRangesHaveOneOwner) {
  const Init zeros = copied(constant(0));
  std::vector<int> owners(8, 0);
  for (int rank = 0; rank < 4; ++rank) {
    ParameterStore store(4, rank, DType::f32);
    const Parameter* p = store.sharded_by("k", {8, 3}, zeros, 0, HeadShards::make({6, 2, 2}, 4, rank).kv, 4);
    EXPECT_TRUE(p->sum_over_tp);
    for (int64_t i = p->owned.begin; i < p->owned.end; ++i) ++owners[i];
    const Parameter* whole = store.whole("norm", {5}, zeros);
    EXPECT_EQ(whole->owned_elements(), rank == 0 ? 5 : 0);
    EXPECT_FALSE(whole->sum_over_tp);
    EXPECT_FALSE(
        store.sharded_by("q", {24, 3}, zeros, 0, HeadShards::make({6, 2, 2}, 4, rank).heads, 4)->sum_over_tp);
  }
  EXPECT_THAT(owners, testing::Each(1));
}

}  // namespace
}  // namespace wuneng::head_shards_test
