// WKV-7: the chunked recurrence and reading against the token-by-token form, and the backward. One line a
// setting; times are the best of several rounds that take turns, so that a busy machine disturbs all columns
// alike. `bench_wkv7 cpu` takes processor time, a thread's share of it, in place of the clock's: for a
// machine that is busy all the time.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <functional>
#include <random>
#include <string_view>

#include "kernels/wkv7.h"
#include "runtime/threads.h"

namespace wuneng::kernels {
namespace {

Tensor filled(Shape shape, const std::function<float()>& next) {
  Tensor t = Tensor::empty(std::move(shape));
  std::generate_n(t.f32(), t.numel(), next);
  return t;
}

struct Setting {
  int64_t T, N, D, readers_per_state;
  int threads;
};

// Nanoseconds on the clock, or of the processor for each of the threads.
double now(bool cpu_time, int threads) {
  if (cpu_time) return 1e9 * static_cast<double>(std::clock()) / CLOCKS_PER_SEC / threads;
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void measure(const Setting& setting, bool cpu_time) {
  const auto [T, N, D, P, threads] = setting;
  set_thread_count(threads);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
  const auto draw = [&] { return normal(random); };
  const auto unit = [&, scale = 1 / std::sqrt(static_cast<float>(D))] {
    return scale * normal(random);
  };  // of length 1, nearly
  const int64_t R = N * P;
  const Wkv7Inputs in{.log_w = filled({T, N, D}, [&] { return -0.6065306597f * uniform(random); }),
                      .k = filled({T, N, D}, unit),
                      .v = filled({T, N, D}, draw),
                      .kappa = filled({T, N, D}, unit),
                      .rate = filled({T, N, D}, [&] { return uniform(random); }),
                      .segments = {{0, T}}};
  const auto rows = [&](int64_t heads) { return filled({T, heads, D}, draw); };
  const auto states = [&](int64_t count) { return filled({count, N, D, D}, draw); };
  std::vector<int> head_state;
  for (int64_t h = 0; h < R; ++h) head_state.push_back(static_cast<int>(h / P));

  const Stream stream;
  const Wkv7StatesArgs forward{.in = in,
                               .initial = {},
                               .chunk_states = states(wkv7_kept_count(in.segments, DeviceKind::cpu)),
                               .removed = rows(N),
                               .final = states(1)};
  const Wkv7ReadArgs read{.in = in,
                          .chunk_states = forward.chunk_states,
                          .removed = forward.removed,
                          .head_state = head_state,
                          .r = rows(R),
                          .y = rows(R)};
  const Wkv7BackwardArgs backward{.in = in,
                                  .chunk_states = forward.chunk_states,
                                  .removed = forward.removed,
                                  .head_state = head_state,
                                  .readings = {{rows(R), read.r}},
                                  .dfinal = {},
                                  .dlog_w = rows(N),
                                  .dk = rows(N),
                                  .dv = rows(N),
                                  .dkappa = rows(N),
                                  .drate = rows(N),
                                  .dinitial = {}};
  const Wkv7RecurrentArgs recurrent{.in = in, .head_state = head_state, .r = read.r, .y = rows(R)};

  const std::function<void()> parts[] = {
      [&] { wkv7_states(stream, forward); }, [&] { wkv7_read(stream, read); },
      [&] { wkv7_read_transposed(stream, read); }, [&] { wkv7_backward(stream, backward); },
      [&] { wkv7_recurrent(stream, recurrent); }};
  double ns[5];  // per token and state head
  std::fill_n(ns, 5, INFINITY);
  for (int round = 0; round < 9; ++round)
    for (int i = 0; i < 5; ++i) {
      const double start = now(cpu_time, threads);
      parts[i]();
      ns[i] = std::min(ns[i], (now(cpu_time, threads) - start) / static_cast<double>(T * N));
    }
  fmt::print("{:4} {:2} {:7} {:7} | {:8.0f} {:8.0f} {:8.0f} {:8.0f} | {:9.0f} | {:.2f}\n", D, N, P, threads,
             ns[0], ns[1], ns[2], ns[3], ns[4], ns[4] / (ns[0] + ns[1]));
}

}  // namespace
}  // namespace wuneng::kernels

int main(int argc, char** argv) {
  const bool cpu_time = argc > 1 && std::string_view(argv[1]) == "cpu";
  fmt::print(
      "WKV-7, T = 2048, nanoseconds a token and state head; ratio: recurrent / (states + read)\n"
      "   D  N readers threads |   states     read  read^T backward | recurrent | ratio\n");
  for (const int threads : {1, 2})
    for (const int64_t readers : {1, 4}) {
      wuneng::kernels::measure({2048, 8, 64, readers, threads}, cpu_time);
      wuneng::kernels::measure({2048, 4, 128, readers, threads}, cpu_time);
    }
}
