// AdamW's speed against the memory's: ns an element and GB/s of one optimizer step, beside two yardsticks
// that read and write the same number of bytes on the same threads. A copy to another place may also load
// each line that it writes, uncounted; an update in place, as AdamW is one, does not and is the fairer of the
// two. Usage: bench_adamw [million elements = 32] [rounds = 15]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "kernels/adamw.h"
#include "parallel/optimizer.h"
#include "runtime/threads.h"

namespace wuneng {
namespace {

// Seconds of the fastest round: noise only ever adds.
double fastest(int rounds, const std::function<void()>& work) {
  double best = 1e30;
  for (int i = 0; i < rounds + 2; ++i) {  // two to touch every page
    const auto begin = std::chrono::steady_clock::now();
    work();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (i >= 2) best = std::min(best, seconds);
  }
  return best;
}

void report(const char* name, double seconds, int64_t n, double bytes) {
  fmt::print("{:<28} {:8.2f} ms {:8.3f} ns/element {:8.1f} GB/s\n", name, seconds * 1e3,
             seconds * 1e9 / double(n), bytes / seconds * 1e-9);
}

double copy_seconds(int rounds, double moved) {
  const int64_t n = static_cast<int64_t>(moved) / 2;  // a copy reads and writes each of its bytes
  const Tensor from = Tensor::zeros({n}, DType::u8), to = Tensor::zeros({n}, DType::u8);
  return fastest(rounds, [&] {
    parallel_for(n, 1 << 20, [&](int64_t begin, int64_t end) {
      std::memcpy(static_cast<char*>(to.raw()) + begin, static_cast<char*>(from.raw()) + begin, end - begin);
    });
  });
}

double in_place_seconds(int rounds, double moved) {
  const int64_t n = static_cast<int64_t>(moved) / 8;  // reads and writes each f32 once
  const Tensor x = Tensor::zeros({n});
  return fastest(rounds, [&] {
    parallel_for(n, 1 << 18, [a = x.f32()](int64_t begin, int64_t end) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) a[i] = 0.999f * a[i] + 1.0f;
    });
  });
}

void bench(DType dtype, int64_t n, int rounds) {
  Parameter p;
  p.name = "w";
  p.global_shape = {n};
  p.held = p.owned = {0, n};
  p.var = Var(Tensor::zeros({n}, dtype), true, DType::f32);
  Optimizer optimizer({&p}, {});
  const Tensor gradient = p.var.grad_buffer();
  std::fill_n(gradient.f32(), n, 1e-3f);
  const auto& s = optimizer.states()[0];
  const double stored = dtype == DType::bf16 ? 2 : 0;
  const double kernel_bytes =
      (16 + 16 + stored) * double(n);  // reads w m v g, writes w m v, zeros to g, and the bf16 copy
  const double kernel = fastest(rounds, [&] {
    kernels::adamw({}, {.tensors = {{.master = s.master,
                                     .m = s.m,
                                     .v = s.v,
                                     .gradient = gradient,
                                     .stored = stored ? p.var.value() : Tensor(),
                                     .decay = 0.1f}},
                        .lr = 1e-4f,
                        .beta1 = 0.9f,
                        .beta2 = 0.95f,
                        .eps = 1e-8f,
                        .gradient_scale = {},
                        .step = 10});
  });
  const double step = fastest(rounds, [&] { optimizer.step(1e-4); });
  const double copy = copy_seconds(rounds, kernel_bytes), in_place = in_place_seconds(rounds, kernel_bytes);
  fmt::print("{} parameters, {} million, {} threads\n", to_string(dtype), n / 1000000, thread_count());
  report("  adamw kernel", kernel, n, kernel_bytes);
  report("  step", step, n, kernel_bytes);
  report("  memcpy of as many bytes", copy, n, kernel_bytes);
  report("  in place, as many bytes", in_place, n, kernel_bytes);
  fmt::print("  kernel / memcpy {:.2f}, kernel / in place {:.2f}, step / memcpy {:.2f}\n", kernel / copy,
             kernel / in_place, step / copy);
}

}  // namespace
}  // namespace wuneng

int main(int argc, char** argv) {
  const int64_t n = (argc > 1 ? std::atoll(argv[1]) : 32) * 1000000;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 15;
  for (const wuneng::DType dtype : {wuneng::DType::f32, wuneng::DType::bf16}) wuneng::bench(dtype, n, rounds);
}
