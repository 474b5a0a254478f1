// Messages and collectives of tensors on a GPU: staged through the host where ranks share it, by NCCL where
// each has its own.
#include <gtest/gtest.h>
#include <mpi.h>

#include <cstdlib>
#include <functional>
#include <map>

#ifdef WUNENG_EMULATED
#include <cublasLt.h>
#include <nccl.h>

#include <cmath>
#include <cstring>

#include "kernels/matmul.h"
#include "parallel/product_choices.h"
#endif
#include "runtime/comm.h"
#include "tests/error_of.h"
#include "tests/mpi/gpus.h"

// The driver's settings when MPI was initialised, which may start the driver.
std::map<std::string, std::string> g_at_mpi_init;

extern "C" int MPI_Init_thread(int* argc, char*** argv, int required, int* provided) {
  for (const char* name : {"CUDA_MODULE_LOADING", "CUDA_DEVICE_MAX_CONNECTIONS", "NCCL_RUNTIME_CONNECT"})
    if (const char* value = std::getenv(name)) g_at_mpi_init[name] = value;
  return PMPI_Init_thread(argc, argv, required, provided);
}

namespace wuneng {
namespace {

Device gpu() { return of_this_rank({DeviceKind::cuda, 0}); }

Tensor on_gpu(int64_t count, const std::function<double(int64_t)>& value) {
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = static_cast<float>(value(i));
  return Tensor::from(values, {count}).to(gpu());
}

void expect_values(const Tensor& found, const std::function<double(int64_t)>& value) {
  const Tensor host = found.to(Device{});
  for (int64_t i = 0; i < host.numel(); ++i)
    ASSERT_EQ(host.f32()[i], static_cast<float>(value(i))) << "element " << i;
}

enum class How { staged, connected, without_overlap };

// Before and after connect(): the same results in all ways.
class DeviceComm : public testing::TestWithParam<How> {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU here";
    group_ = Comm::world().split(0, Comm::world().rank(), "gpus");
    if (!by_nccl()) return;
    if (!gpus_of_their_own()) GTEST_SKIP() << "ranks share a GPU";
    group_.connect(gpu(), GetParam() == How::connected);
    std::vector<Comm::Channel> ring;
    for (int r = 0, n = group_.size(); r < n && n > 1; ++r) {
      ring.push_back({r, (r + 1) % n});
      if (n > 2) ring.push_back({(r + 1) % n, r});
    }
    group_.connect_messages(gpu(), ring);
  }
  static bool by_nccl() { return GetParam() != How::staged; }
  int next() const { return (group_.rank() + 1) % group_.size(); }
  int before() const { return (group_.rank() + group_.size() - 1) % group_.size(); }
  Comm group_;
};

// A kernel that is loaded while a message is under way may wait for it, and with it for this host.
TEST_P(DeviceComm, KernelsAreLoadedBeforeMessagesAreUnderWay) {
  if (group_.size() == 1) GTEST_SKIP() << "needs 2 ranks";
  EXPECT_EQ(g_at_mpi_init.at("CUDA_MODULE_LOADING"), "EAGER");
  EXPECT_EQ(g_at_mpi_init.at("CUDA_DEVICE_MAX_CONNECTIONS"), "32");
  EXPECT_EQ(g_at_mpi_init.at("NCCL_RUNTIME_CONNECT"), "0");
}

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
  const Tensor wide = Tensor::from<double>({1.0 + rank}, {1}).to(gpu());
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

// Sums of two groups in turn: one begins when what the compute stream did before has ended, also the end of
// another sum, and what is computed after the wait has the sum.
TEST_P(DeviceComm, SumsBegunAreInTheComputeStreamsOrder) {
  const int n = group_.size(), rank = group_.rank();
  const Comm other = group_.split(0, rank, "other");
  if (by_nccl()) other.connect(gpu(), GetParam() == How::connected);
  for (const int64_t count : {1, 700'000}) {
    const Tensor x = on_gpu(count, [&](int64_t i) { return static_cast<double>(i % 7 + rank); }),
                 y = on_gpu(count, [&](int64_t i) { return static_cast<double>(i % 5); }), one = x.clone();
    Request of_y = group_.iall_reduce(y, Reduce::max, "y");
    Request of_x = group_.iall_reduce(x, Reduce::sum, "x");
    of_y.wait();
    of_x.wait();
    other.iall_reduce(x, Reduce::sum, "x again").wait();
    x.add(one);
    const double ranks = n * (n - 1) / 2.0;
    expect_values(
        x, [&](int64_t i) { return n * (static_cast<double>(n * (i % 7)) + ranks) + double(i % 7 + rank); });
    expect_values(y, [](int64_t i) { return static_cast<double>(i % 5); });
  }
  EXPECT_FALSE(Request().active());
}

// Their memory too: given back by the caller while a sum is on its way, it is used for nothing else.
TEST_P(DeviceComm, ASumKeepsItsMemory) {
  Request sum =
      group_.iall_reduce(on_gpu(5000, [](int64_t i) { return static_cast<double>(i); }), Reduce::sum, "kept");
  std::vector<Tensor> others;
  for (int i = 0; i < 4; ++i) others.push_back(Tensor::zeros({5000}, DType::f32, gpu()));
  sum.wait();
  if (!by_nccl() || group_.size() == 1) return;  // through the host it ends where it is waited for
  Request polled = group_.iall_reduce(others[0], Reduce::sum, "polled");
  while (!polled.done()) {
  }
  expect_values(others[0], [](int64_t) { return 0.0; });
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
               all = Tensor::zeros({n, count}, DType::f32, gpu());
  group_.all_gather(mine, all, "values");
  expect_values(all, [&](int64_t i) { return static_cast<double>(i % count) + 0.5 * double(i / count); });
}

TEST_P(DeviceComm, SharesOfASumAndGathersInPlace) {
  const int n = group_.size(), rank = group_.rank();
  for (const int64_t each : {1, 1000, 400'000}) {
    const Tensor x = on_gpu(each * n, [&](int64_t i) { return static_cast<double>((i % 17) * (rank + 1)); });
    const Tensor mine = x.rows(each * rank, each * (rank + 1));
    group_.ireduce_scatter(x, "shares").wait();
    expect_values(mine, [&](int64_t i) { return ((each * rank + i) % 17) * n * (n + 1) / 2.0; });
    group_.iall_gather(mine, x, "all shares").wait();
    expect_values(x, [&](int64_t i) { return (i % 17) * n * (n + 1) / 2.0; });
  }
}

TEST_P(DeviceComm, Messages) {
  const int n = group_.size(), rank = group_.rank();
  if (n == 1) GTEST_SKIP() << "needs 2 ranks";
  for (const int64_t count : {1, 5000, 700'000}) {
    const Tensor out = on_gpu(count, [&](int64_t i) { return static_cast<double>(i + rank); }),
                 in = Tensor::empty({count}, DType::f32, gpu());
    Request received = group_.irecv(in, before(), 1, "ring"), sent = group_.isend(out, next(), 1, "ring");
    received.wait();
    sent.wait();
    expect_values(in, [&](int64_t i) { return static_cast<double>(i + before()); });
  }
}

// Round the ring and on, every other time after a kernel: what is sent on has been received first, and memory
// that is written to or given back after a message's end does not change it.
TEST_P(DeviceComm, MessagesAreInTheComputeStreamsOrder) {
  const int n = group_.size(), rank = group_.rank();
  if (n == 1) GTEST_SKIP() << "needs 2 ranks";
  const Tensor one = on_gpu(2000, [](int64_t) { return 1.0; });
  Tensor x = on_gpu(2000, [&](int64_t i) { return static_cast<double>(i + 1000 * rank); });
  std::vector<Request> sends;
  for (int turn = 0; turn < 2 * n; ++turn) {
    const Tensor in = Tensor::empty({2000}, DType::f32, gpu());
    Request received = group_.irecv(in, before(), turn, "ring");
    sends.push_back(group_.isend(x, next(), turn, "ring"));
    received.wait();
    if (turn % 2 == 1) in.add(one);
    x = in;
    std::erase_if(sends, [](Request& r) { return r.done(); });
  }
  expect_values(x, [&](int64_t i) { return static_cast<double>(i + 1000 * rank + n); });
  for (Request& r : sends) r.wait();
  const Tensor out = x.clone(), in = Tensor::empty({2000}, DType::f32, gpu());
  Request received = group_.irecv(in, before(), 3, "ring"), sent = group_.isend(out, next(), 3, "ring");
  received.wait();
  sent.wait();
  out.zero();
  expect_values(in, [&](int64_t i) { return static_cast<double>(i + 1000 * before() + n); });
}

// Both ranks send before either receives, several times, one of them in reverse order where the host allows
// it.
TEST_P(DeviceComm, SendsDoNotWaitForReceives) {
  const int rank = group_.rank();
  if (group_.size() == 1) GTEST_SKIP() << "needs 2 ranks";
  constexpr int64_t kLong = 300'000;
  std::vector<Request> sends, receives;
  std::vector<Tensor> in;
  for (int m = 0; m < 4; ++m) {
    const Tensor out =
        on_gpu(kLong, [&](int64_t i) { return static_cast<double>(i % 1000 + 10 * m + rank); });
    sends.push_back(group_.isend(out, next(), m, "forward"));
    sends.push_back(group_.isend(out, before(), 10 + m, "back"));
  }
  for (int m = 0; m < 4; ++m) {
    for (const bool forward : {true, false}) {
      in.push_back(Tensor::empty({kLong}, DType::f32, gpu()));
      receives.push_back(forward ? group_.irecv(in.back(), before(), m, "forward")
                                 : group_.irecv(in.back(), next(), 10 + m, "back"));
    }
  }
  receives.back().done();  // not its turn on a way, and no harm
  for (Request& r : receives) r.wait();
  for (Request& r : sends) r.wait();
  for (int m = 0; m < 4; ++m) {
    const auto of = [&](int peer) {
      return [=](int64_t i) { return static_cast<double>(i % 1000 + 10 * m + peer); };
    };
    expect_values(in[2 * m], of(before()));
    expect_values(in[2 * m + 1], of(next()));
  }
}

// A send that waits for its receiver: until that asks for the message nothing is enqueued, and then the
// sender goes on in whatever it waits for.
TEST_P(DeviceComm, SendsBeginWhenTheirReceiverIsReady) {
  if (group_.size() == 1 || GetParam() != How::connected) GTEST_SKIP() << "needs 2 ranks with a GPU each";
  const int rank = group_.rank();
  const Comm pair = group_.split(rank < 2 ? 0 : 1, rank, "waiting pair");
  if (rank > 1) return;
  pair.connect_messages(gpu(), {{0, 1}}, 1, true);
  EXPECT_TRUE(pair.sends_wait_for_receivers());
  constexpr int kMessages = 3;
  const auto value = [](int m) { return [m](int64_t i) { return static_cast<double>(i % 100 + 1000 * m); }; };
  const Tensor flag = Tensor::zeros({1});
  for (int turn = 0; turn < 2; ++turn) {
    std::vector<Request> messages;
    if (rank == 0) {
#ifdef WUNENG_EMULATED
      const int64_t before = emulator::nccl_sends();
#endif
      for (int m = 0; m < kMessages; ++m)
        messages.push_back(pair.isend(on_gpu(9000, value(m)), 1, 7, "frame"));
      for (int i = 0; i < 1000; ++i)
        for (Request& r : messages) EXPECT_FALSE(r.done());
#ifdef WUNENG_EMULATED
      EXPECT_EQ(emulator::nccl_sends(), before);
#endif
      pair.send(flag, 1, 8, "receive");
      // The receiver answers when it has all: in this wait the sends begin.
      turn == 0 ? pair.recv(flag, 1, 9, "received") : pair.barrier("received");
#ifdef WUNENG_EMULATED
      EXPECT_EQ(emulator::nccl_sends(), before + kMessages);
#endif
      for (Request& r : messages) r.wait();
    } else {
      std::vector<Tensor> in;
      for (int m = 0; m < kMessages; ++m) {
        in.push_back(Tensor::empty({9000}, DType::f32, gpu()));
        messages.push_back(pair.irecv(in.back(), 0, 7, "frame"));
      }
      pair.recv(flag, 0, 8, "receive");
      for (Request& r : messages) r.wait();
      for (int m = 0; m < kMessages; ++m) expect_values(in[m], value(m));
      turn == 0 ? pair.send(flag, 0, 9, "received") : pair.barrier("received");
    }
  }
}

#ifdef WUNENG_EMULATED
// Another algorithm is the fastest on each rank, and gives other bits.
TEST_P(DeviceComm, RanksAgreeOnTheAlgorithmsOfProducts) {
  const int rank = group_.rank(), K = 700;
  const Tensor a = on_gpu(12 * K, [](int64_t i) { return std::sin(double(i)); }).view({12, K}),
               b = on_gpu(16 * K, [](int64_t i) { return std::cos(double(i)); }).view({16, K});
  const Stream stream = compute_stream(gpu());
  const auto product = [&](int64_t rows) {
    const Tensor c = Tensor::zeros({rows, 16}, DType::f32, gpu());
    kernels::matmul(stream, {.a = a.rows(0, rows), .b = b, .c = c, .transpose_b = true});
    return c.to(Device{});
  };
  const auto same = [](const Tensor& x, const Tensor& y) {
    return std::memcmp(x.raw(), y.raw(), x.bytes()) == 0;
  };
  const int64_t rows = 2 + 3 * static_cast<int>(GetParam());  // others than in tests before
  const Tensor before = product(rows);
  if (rank == 1) product(rows + 1);  // which rank 0 has not computed
  product(rows + 2);
  emulator::set_fastest_algorithm((rank + 1) % emulator::kAlgorithms);
  const TimedProducts timed = time_products(group_, stream);
  EXPECT_GE(timed.products, rank == 1 ? 3 : 2);
  EXPECT_GE(timed.changed, 2);
  EXPECT_FALSE(same(product(rows), before));
  EXPECT_EQ(time_products(group_, stream).products, 0);

  const Tensor mine = product(rows).to(gpu()),
               all = Tensor::empty({group_.size(), rows * 16}, DType::f32, gpu());
  group_.all_gather(mine.view({rows * 16}), all, "products");
  const Tensor host = all.to(Device{});
  for (int r = 1; r < group_.size(); ++r) EXPECT_TRUE(same(host.rows(r, r + 1), host.rows(0, 1))) << r;
  emulator::set_fastest_algorithm(0);
}
#endif

// A message that is never received: it lives on, and on all ranks so does its group, which they would leave
// together.
void forget(const Comm& group, Request sent) {
  new Comm(group);
  new Request(std::move(sent));
}

TEST_P(DeviceComm, AWrongSizeIsNamed) {
  const int rank = group_.rank();
  if (group_.size() == 1) GTEST_SKIP() << "needs 2 ranks";
  const Comm pair = group_.split(rank < 2 ? 0 : 1, rank, "pair");
  if (by_nccl() && pair.size() == 2) pair.connect_messages(gpu(), {{0, 1}});
  if (rank == 0) {
    Request sent = pair.isend(Tensor::zeros({2}, DType::f32, gpu()), 1, 4, "short");
    by_nccl() ? forget(pair, sent) : sent.wait();
  } else if (rank == 1) {
    const Tensor in = Tensor::empty({3}, DType::f32, gpu());
    const std::string text = error_of([&] { pair.recv(in, 0, 4, "short"); });
    EXPECT_NE(text.find("receive 'short' f32[3] with world rank 0 on pair"), std::string::npos) << text;
    EXPECT_NE(text.find("expected 12 bytes, received 8"), std::string::npos) << text;
    if (by_nccl()) forget(pair, {});
  }
}

TEST_P(DeviceComm, OnAWayMessagesAreTakenInTheirOrder) {
  const int rank = group_.rank();
  if (group_.size() == 1) GTEST_SKIP() << "needs 2 ranks";
  const Tensor a = on_gpu(3, [](int64_t i) { return double(i); }),
               b = on_gpu(3, [](int64_t i) { return 10.0 + i; });
  if (rank == 0) {
    Request first = group_.isend(a, 1, 1, "first");
    Request second = group_.isend(b, 1, 2, "second");
    first.wait();
    by_nccl() ? forget(group_, second) : second.wait();
  } else if (rank == 1) {
    const Tensor in = Tensor::empty({3}, DType::f32, gpu());
    Request first = group_.irecv(a, 0, 1, "first"), second = group_.irecv(in, 0, 2, "second");
    const std::string text = error_of([&] { second.wait(); });
    first.wait();
    if (by_nccl()) {
      EXPECT_NE(text.find("receive 'second'"), std::string::npos) << text;
      EXPECT_NE(text.find("in the order in which they were sent"), std::string::npos) << text;
    } else {
      EXPECT_EQ(text, "no error");
      expect_values(in, [](int64_t i) { return 10.0 + double(i); });
    }
  }
  if (by_nccl() && rank > 0) forget(group_, {});
}

// Copies on the host are page-locked, counted while they are in use, and used again. Messages of many values
// in turn: a copy that is used again too early, or read too early, has another message's.
TEST_P(DeviceComm, CopiesOnTheHostAreUsedAgain) {
  if (by_nccl()) GTEST_SKIP() << "goes by NCCL";
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
      in.push_back(Tensor::empty({3000}, DType::f32, gpu()));
      group_.recv(in[m], (rank + n - 1) % n, 1, "ring");
    }
    for (Request& r : sent) r.wait();
    sent.clear();
    for (int m = 0; m < 3; ++m)
      expect_values(in[m], [&](int64_t i) { return static_cast<double>(i + 7 * m + 100 * round); });
    if (round == 5) held = pinned_bytes();
  }
  EXPECT_EQ(memory_use(DeviceKind::cpu).current, before);
  EXPECT_GE(held, 4 * 12'000);
  EXPECT_EQ(pinned_bytes(), held);
}

std::string name_of(const testing::TestParamInfo<How>& info) {
  constexpr const char* names[] = {"staged", "connected", "without_overlap"};
  return names[static_cast<int>(info.param)];
}

INSTANTIATE_TEST_SUITE_P(Ways, DeviceComm, testing::Values(How::staged, How::connected, How::without_overlap),
                         name_of);

}  // namespace
}  // namespace wuneng
