// Messages and collectives of tensors on a GPU: staged through the host where ranks share it, by NCCL where
// each has its own.
#include <gtest/gtest.h>

#include <functional>

#include "runtime/comm.h"

namespace wuneng {
namespace {

const Device kGpu = {DeviceKind::cuda, 0};

Tensor on_gpu(int64_t count, const std::function<double(int64_t)>& value) {
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = static_cast<float>(value(i));
  return Tensor::from(values, {count}).to(kGpu);
}

void expect_values(const Tensor& found, const std::function<double(int64_t)>& value) {
  const Tensor host = found.to(Device{});
  for (int64_t i = 0; i < host.numel(); ++i)
    ASSERT_EQ(host.f32()[i], static_cast<float>(value(i))) << "element " << i;
}

// Before and after connect(): the same results either way.
class DeviceComm : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU here";
    group_ = Comm::world().split(0, Comm::world().rank(), "gpus");
    if (GetParam()) group_.connect(kGpu);
  }
  Comm group_;
};

TEST_P(DeviceComm, AllReduce) {
  const int n = group_.size(), rank = group_.rank();
  for (const int64_t count : {1, 1000, 700'000}) {  // the last in several pieces
    const auto mine = [&](int64_t i) { return static_cast<double>((i % 17) * (rank + 1)); };
    const Tensor sum = on_gpu(count, mine), most = sum.clone(), least = sum.clone();
    group_.all_reduce(sum, Reduce::sum, "sum");
    group_.all_reduce(most, Reduce::max, "max");
    group_.all_reduce(least, Reduce::min, "min");
    expect_values(sum, [&](int64_t i) { return (i % 17) * n * (n + 1) / 2.0; });
    expect_values(most, [&](int64_t i) { return static_cast<double>((i % 17) * n); });
    expect_values(least, [&](int64_t i) { return static_cast<double>(i % 17); });
  }
  const Tensor wide = Tensor::from<double>({1.0 + rank}, {1}).to(kGpu);
  group_.all_reduce(wide, Reduce::sum, "f64");
  EXPECT_EQ(wide.to(Device{}).data<double>()[0], n * (n + 1) / 2.0);
}

// Numbers whose sums bf16 holds; by NCCL they may be rounded after each rank.
TEST_P(DeviceComm, AllReduceOfBf16) {
  const int n = group_.size(), rank = group_.rank();
  for (const int64_t count : {1, 1'500'000}) {
    const auto mine = [&](int64_t i) { return static_cast<double>((i % 13) * (rank + 1)); };
    const Tensor sum = on_gpu(count, mine).to(DType::bf16), most = sum.clone(), least = sum.clone();
    group_.all_reduce(sum, Reduce::sum, "sum");
    group_.all_reduce(most, Reduce::max, "max");
    group_.all_reduce(least, Reduce::min, "min");
    const auto wide = [](const Tensor& t) { return t.to(DType::f32); };
    expect_values(wide(sum), [&](int64_t i) { return (i % 13) * n * (n + 1) / 2.0; });
    expect_values(wide(most), [&](int64_t i) { return static_cast<double>((i % 13) * n); });
    expect_values(wide(least), [&](int64_t i) { return static_cast<double>(i % 13); });
  }
}

TEST_P(DeviceComm, BroadcastAndGather) {
  const int n = group_.size(), rank = group_.rank();
  const int64_t count = 300'001;
  for (const int root : {0, n - 1}) {
    const Tensor x = on_gpu(count, [&](int64_t i) { return static_cast<double>(i + rank); });
    group_.broadcast(x, root, "values");
    expect_values(x, [&](int64_t i) { return static_cast<double>(i + root); });
  }
  const Tensor mine = on_gpu(count, [&](int64_t i) { return i + 0.5 * rank; }),
               all = Tensor::empty({n, count}, DType::f32, kGpu);
  group_.all_gather(mine, all, "values");
  expect_values(all, [&](int64_t i) { return static_cast<double>(i % count) + 0.5 * double(i / count); });
}

TEST_P(DeviceComm, Messages) {
  const int n = group_.size(), rank = group_.rank();
  if (n == 1) GTEST_SKIP() << "needs 2 ranks";
  const Tensor out = on_gpu(5000, [&](int64_t i) { return static_cast<double>(i + rank); }),
               in = Tensor::empty({5000}, DType::f32, kGpu);
  Request received = group_.irecv(in, (rank + n - 1) % n, 1, "ring"),
          sent = group_.isend(out, (rank + 1) % n, 1, "ring");
  received.wait();
  sent.wait();
  expect_values(in, [&](int64_t i) { return static_cast<double>(i + (rank + n - 1) % n); });
}

// Copies on the host are page-locked, counted while they are in use, and used again. Messages of many values
// in turn: a copy that is used again too early, or read too early, has another message's.
TEST_P(DeviceComm, CopiesOnTheHostAreUsedAgain) {
  if (GetParam()) GTEST_SKIP() << "goes by NCCL";
  const int n = group_.size(), rank = group_.rank();
  if (n == 1) GTEST_SKIP() << "needs 2 ranks";
  const int64_t before = memory_use(DeviceKind::cpu).current;
  int64_t held = 0;
  for (int round = 0; round < 12; ++round) {
    std::vector<Tensor> in;
    std::vector<Request> sent;
    for (int m = 0; m < 3; ++m) {
      const Tensor out =
          on_gpu(3000, [&](int64_t i) { return static_cast<double>(i + 7 * m + 100 * round); });
      sent.push_back(group_.isend(out, (rank + 1) % n, 1, "ring"));
    }
    EXPECT_GE(memory_use(DeviceKind::cpu).current, before + 3 * 12'000);
    for (int m = 0; m < 3; ++m) {
      in.push_back(Tensor::empty({3000}, DType::f32, kGpu));
      group_.recv(in[m], (rank + n - 1) % n, 1, "ring");
    }
    for (Request& r : sent) r.wait();
    sent.clear();
    for (int m = 0; m < 3; ++m)
      expect_values(in[m], [&](int64_t i) { return static_cast<double>(i + 7 * m + 100 * round); });
    if (round == 5) held = locked_bytes();
  }
  EXPECT_EQ(memory_use(DeviceKind::cpu).current, before);
  EXPECT_GE(held, 4 * 12'000);
  EXPECT_EQ(locked_bytes(), held);
}

INSTANTIATE_TEST_SUITE_P(Ways, DeviceComm, testing::Bool(),
                         [](const auto& info) { return info.param ? "connected" : "staged"; });

}  // namespace
}  // namespace wuneng
