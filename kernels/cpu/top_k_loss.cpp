#include "kernels/top_k_loss.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/simd.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();
constexpr int64_t kBlock = 2048;  // sums are f32 within a block and f64 across blocks

double sum_of_exponentials(const float* x, int64_t count, float factor, float maximum) {
  double total = 0;
  for (int64_t from = 0; maximum != kNone && from < count; from += kBlock) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = from; c < std::min(count, from + kBlock); ++c) sum += exp_fast(x[c] * factor - maximum);
    total += sum;
  }
  return total;
}

float largest_of(const float* x, int64_t count, float factor) {
  float best = kNone;
#pragma omp simd reduction(max : best)
  for (int64_t c = 0; c < count; ++c) best = std::max(best, x[c] * factor);
  return best;
}

// f(j, local column) for the chosen tokens of row i whose column is here.
template <class F>
void each_here(const TopKColumns& columns, int64_t begin, int64_t i, F f) {
  const int64_t k = columns.ids.dim(1);
  for (int64_t j = 0; j < k; ++j) {
    const int64_t c = columns.ids.data<int32_t>()[i * k + j] - begin;
    if (c >= 0 && c < columns.shared) f(j, c);
  }
}

}  // namespace

void top_k_statistics(const Stream&, const TopKStatisticsArgs& args) {
  const LossInputs& in = args.in;
  const int64_t C = in.logits.dim(0), V = in.logits.dim(1), k = args.columns.ids.dim(1);
  WUNENG_ASSERT(in.teacher.empty() && args.columns.shared <= V && args.chosen.shape() == (Shape{C, k}));
  float* maxima = args.maxima.f32();
  double* sums = args.sums.data<double>();
  parallel_for(C, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float *x = in.logits.f32() + i * V, *chosen = args.chosen.f32() + i * k;
      const int64_t label = in.labels.data<int32_t>()[i] - in.begin;
      const float x_max = largest_of(x, V, 1);
      maxima[2 * C + i] = x_max;
      sums[3 * C + i] = sum_of_exponentials(x, V, 1, x_max);
      sums[4 * C + i] = in.labels.data<int32_t>()[i] >= 0 && label >= 0 && label < V ? x[label] : 0;
      std::fill_n(chosen, k, 0.0f);
      each_here(args.columns, in.begin, i, [&](int64_t j, int64_t c) { chosen[j] = x[c], x[c] = kNone; });
      const float rest = largest_of(x, args.columns.shared, in.inverse_temperature);
      maxima[i] = rest, maxima[C + i] = kNone;
      sums[i] = sum_of_exponentials(x, args.columns.shared, in.inverse_temperature, rest);
      sums[C + i] = sums[2 * C + i] = 0;
      each_here(args.columns, in.begin, i, [&](int64_t j, int64_t c) { x[c] = chosen[j]; });
    }
  });
}

void top_k_divergence(const Stream&, const TopKDivergenceArgs& args) {
  const int64_t C = args.chosen.dim(0), k = args.chosen.dim(1);
  WUNENG_ASSERT(args.teacher.shape() == (Shape{C, k + 1}) && args.slopes.shape() == args.teacher.shape());
  const double inverse = args.inverse_temperature, beta = args.beta;
  parallel_for(C, 16, [&](int64_t begin, int64_t end) {
    std::vector<double> p(k + 1), over_m(k + 1);  // log P, then P log(P / M)'s logarithm
    for (int64_t i = begin; i < end; ++i) {
      const float *x = args.chosen.f32() + i * k, *log_q = args.teacher.f32() + i * (k + 1);
      for (int64_t j = 0; j < k; ++j) p[j] = x[j] * inverse;
      p[k] = args.maxima.f32()[i] + std::log(args.sums.data<double>()[i]);
      const double largest = *std::max_element(p.begin(), p.end());
      double total = 0;
      for (const double s : p) total += std::exp(s - largest);
      const double log_total = largest + std::log(total);
      double of_teacher = 0, of_student = 0;  // KL(Q || M), KL(P || M)
      for (int64_t j = 0; j <= k; ++j) {
        const double log_p = p[j] - log_total, q = std::exp(double(log_q[j])),
                     log_m = beta == 0   ? log_p
                             : beta == 1 ? log_q[j]
                                         : std::log(beta * q + (1 - beta) * std::exp(log_p));
        p[j] = std::exp(log_p);
        over_m[j] = p[j] == 0 ? 0 : log_p - log_m;
        of_student += p[j] * over_m[j];
        if (q > 0) of_teacher += q * (log_q[j] - log_m);
      }
      args.divergence.data<double>()[i] = beta == 0   ? of_teacher
                                          : beta == 1 ? of_student
                                                      : beta * of_teacher + (1 - beta) * of_student;
      for (int64_t j = 0; j <= k; ++j)
        args.slopes.f32()[i * (k + 1) + j] =
            static_cast<float>(beta == 0 ? p[j] - std::exp(double(log_q[j]))
                                         : (beta == 1 ? 1 : 1 - beta) * p[j] * (over_m[j] - of_student));
    }
  });
}

void top_k_gradient(const Stream&, const TopKGradientArgs& args) {
  const LossInputs& in = args.in;
  const int64_t C = in.logits.dim(0), V = in.logits.dim(1), k = args.columns.ids.dim(1),
                shared = args.columns.shared;
  const float *maxima = args.maxima.f32(), inverse = in.inverse_temperature;
  const double* sums = args.sums.data<double>();
  parallel_for(C, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float *x = in.logits.f32() + i * V, *slopes = args.slopes.f32() + i * (k + 1);
      float* g = args.gradient.f32() + i * V;
      const float kl = args.kl_scale.f32()[i], ce = args.ce_scale.f32()[i];
      if (kl == 0 && ce == 0) {
        std::fill_n(g, V, 0.0f);
        continue;
      }
      const float rest_max = maxima[i], x_max = maxima[2 * C + i];
      const float x_factor = static_cast<float>(ce / sums[3 * C + i]),
                  rest_factor = static_cast<float>(kl * slopes[k] / sums[i]);
#pragma omp simd
      for (int64_t c = 0; c < shared; ++c)
        g[c] = x_factor * exp_fast(x[c] - x_max) + rest_factor * exp_fast(x[c] * inverse - rest_max);
#pragma omp simd
      for (int64_t c = shared; c < V; ++c) g[c] = x_factor * exp_fast(x[c] - x_max);
      each_here(args.columns, in.begin, i, [&](int64_t j, int64_t c) {
        g[c] = x_factor * exp_fast(args.chosen.f32()[i * k + j] - x_max) + kl * slopes[j];
      });
      const int64_t label = in.labels.data<int32_t>()[i] - in.begin;
      if (ce != 0 && label >= 0 && label < V) g[label] -= ce;
    }
  });
}

}  // namespace wuneng::kernels::cpu
