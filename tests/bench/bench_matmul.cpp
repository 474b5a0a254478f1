// Our matrix products (oneDNN's sgemm on our threads) against OpenBLAS on its own, in the forms that a layer
// needs; GFLOP/s. Each figure is the best of several rounds in which ours and theirs take turns, so that a
// busy machine disturbs both alike.
//
// The kernels that OpenBLAS picked are named: one that does not know the processor takes AVX2 ones, at half
// the rate of AVX-512, unless OPENBLAS_CORETYPE says otherwise.
//
// Usage: bench_matmul [rounds = 7]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <random>

#include "kernels/matmul.h"
#include "runtime/threads.h"

extern "C" {
char* openblas_get_corename();
void openblas_set_num_threads(int threads);
void cblas_sgemm(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha,
                 const float* a, int lda, const float* b, int ldb, float beta, float* c, int ldc);
}

namespace wuneng::kernels {
namespace {

using Clock = std::chrono::steady_clock;

Tensor filled(Shape shape, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  Tensor t = Tensor::empty(std::move(shape));
  std::generate_n(t.f32(), t.numel(), [&] { return uniform(random); });
  return t;
}

double seconds_each(int times, const std::function<void()>& work) {
  const auto start = Clock::now();
  for (int i = 0; i < times; ++i) work();
  return std::chrono::duration<double>(Clock::now() - start).count() / times;
}

struct Form {
  const char* name;
  bool transpose_a, transpose_b;
  DType b_type = DType::f32;
};
const Form kForms[] = {{"x W^T", false, true},
                       {"dy W", false, false},
                       {"dy^T x", true, false},
                       {"x W^T, bf16 W", false, true, DType::bf16}};

struct Rates {
  double ours = 0, theirs = 0;  // GFLOP/s
};

Rates measure(const Form& form, int64_t size, int threads, int rounds) {
  set_thread_count(threads);
  openblas_set_num_threads(threads);
  const Tensor a = filled({size, size}, 1), b = filled({size, size}, 2), c = filled({size, size}, 3);
  const Tensor c_theirs = c.clone();
  const MatmulArgs args{.a = a,
                        .b = b.to(form.b_type),
                        .c = c,
                        .transpose_a = form.transpose_a,
                        .transpose_b = form.transpose_b};
  const auto ours = [&] { matmul({}, args); };
  constexpr int kRowMajor = 101, kPlain = 111, kTransposed = 112;
  const int n = static_cast<int>(size);
  const auto theirs = [&] {  // always on f32: it has no product of f32 and bf16
    cblas_sgemm(kRowMajor, form.transpose_a ? kTransposed : kPlain, form.transpose_b ? kTransposed : kPlain,
                n, n, n, 1, a.f32(), n, b.f32(), n, 0, c_theirs.f32(), n);
  };
  const double gflop = 2e-9 * std::pow(static_cast<double>(size), 3);
  const int times = std::max(1, static_cast<int>(2 / gflop));  // some tens of milliseconds a round
  Rates best;
  for (int round = 0; round < rounds; ++round) {
    best.ours = std::max(best.ours, gflop / seconds_each(times, ours));
    best.theirs = std::max(best.theirs, gflop / seconds_each(times, theirs));
  }
  if (form.b_type == DType::f32)
    for (int64_t i = 0; i < c.numel(); ++i)
      require(std::abs(c.f32()[i] - c_theirs.f32()[i]) < 1e-2f,
              "{} at {}: element {} is {} here, {} in OpenBLAS", form.name, size, i, c.f32()[i],
              c_theirs.f32()[i]);
  return best;
}

void run(int rounds) {
  fmt::print(
      "Square products, GFLOP/s; OpenBLAS with {} kernels\n"
      "form           size |   1 thread  OpenBLAS ratio |  2 threads  OpenBLAS ratio | ours 2 / 1\n",
      openblas_get_corename());
  for (const Form& form : kForms)
    for (const int64_t size : {256, 512, 1024, 2048}) {
      const Rates one = measure(form, size, 1, rounds), two = measure(form, size, 2, rounds);
      fmt::print("{:<14} {:4} | {:10.1f} {:9.1f} {:5.2f} | {:10.1f} {:9.1f} {:5.2f} | {:.2f}\n", form.name,
                 size, one.ours, one.theirs, one.ours / one.theirs, two.ours, two.theirs,
                 two.ours / two.theirs, two.ours / one.ours);
    }
}

}  // namespace
}  // namespace wuneng::kernels

int main(int argc, char** argv) { wuneng::kernels::run(argc > 1 ? std::atoi(argv[1]) : 7); }
