// A dry run: what is counted of tensors, kernels and collectives, against counts by hand.
#include "runtime/dry_run.h"

#include <gtest/gtest.h>

#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "runtime/comm.h"

namespace wuneng::dry_run_test {
namespace {

const Device dry{DeviceKind::cuda, 0, true};  // a GPU that need not exist

TEST(DryRun, TensorsAreCountedAndHoldNothing) {
  dry_run::take();
  reset_dry_memory_peak();
  const int64_t before = dry_memory_use().current, host = memory_use(DeviceKind::cpu).current;
  {
    const Tensor huge = Tensor::zeros({int64_t{1} << 40, 64}, DType::bf16, dry);
    EXPECT_EQ(dry_memory_use().current - before, int64_t{1} << 47);
    EXPECT_EQ(memory_use(DeviceKind::cpu).current, host);
    const Tensor row = huge.rows(5, 6).to(Device{});
    EXPECT_EQ(row.to(DType::f32).f32()[63], 0) << "there is nothing to copy";
    huge.rows(0, 2).copy_from(Tensor::zeros({2, 64}, DType::f32));
  }
  EXPECT_EQ(dry_memory_use().current, before);
  EXPECT_EQ(dry_memory_use().peak - before, int64_t{1} << 47);
  EXPECT_EQ(dry_run::take().made, double(int64_t{1} << 47));
}

TEST(DryRun, ProductsAreCountedByHand) {
  dry_run::take();
  const auto of = [](Shape shape) { return Tensor::empty(std::move(shape), DType::bf16, dry); };
  kernels::matmul(compute_stream(dry), {.a = of({3, 5}), .b = of({5, 7}), .c = of({3, 7})});
  kernels::matmul(
      compute_stream(dry),
      {.a = of({5, 3}), .b = of({7, 5}), .c = of({3, 7}), .transpose_a = true, .transpose_b = true});
  const dry_run::Counts counts = dry_run::take();
  EXPECT_EQ(counts.kernels.at("matmul").count, 2);
  EXPECT_EQ(counts.flops(), 2 * 2 * 3 * 5 * 7);
}

TEST(DryRun, AttentionsPairsAreThoseOfTheLoop) {
  for (const int64_t window : {0, 1, 3, 7, 100})
    for (const int64_t offset : {0, 2, 5}) {
      const kernels::AttentionSegment segment{4, 6, 1, offset};
      int64_t pairs = 0;
      for (int64_t i = 0; i < segment.q_count; ++i) {
        const int64_t keys = offset + i + 1;
        pairs += window > 0 ? std::min(window, keys) : keys;
      }
      EXPECT_EQ(kernels::attention_pairs({segment}, window), double(pairs)) << window << " " << offset;
    }
}

TEST(DryRun, CollectivesSendWhatRingsDo) {
  dry_run::take();
  const Comm ranks = Comm::dry(2, 4, "ranks");
  EXPECT_EQ(ranks.rank(), 2);
  EXPECT_EQ(ranks.size(), 4);
  const Tensor x = Tensor::empty({8}, DType::f32, dry), all = Tensor::empty({32}, DType::f32, dry);
  ranks.all_reduce(x, Reduce::sum, "x");
  EXPECT_EQ(dry_run::take().sent.at("ranks"), 2 * 32 * 3 / 4.0);
  Request reduced = ranks.ireduce_scatter(x, "x"), gathered = ranks.iall_gather(x, all, "x");
  reduced.wait(), gathered.wait();
  EXPECT_EQ(dry_run::take().sent.at("ranks"), 32 * 3 / 4.0 + 32 * 3);
  Request sent = ranks.isend(x, 3, 0, "x"), received = ranks.irecv(x, 1, 0, "x");
  EXPECT_TRUE(sent.done() && received.done());
  EXPECT_EQ(dry_run::take().sent.at("ranks"), 32);
  EXPECT_EQ(ranks.all_reduce(1.5, Reduce::max, "a number"), 1.5);
}

}  // namespace
}  // namespace wuneng::dry_run_test
