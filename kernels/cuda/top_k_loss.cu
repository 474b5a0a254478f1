// One thread block per token.
#include "kernels/cuda/common/loss_rows.h"
#include "kernels/top_k_loss.h"

namespace wuneng::kernels::cuda {
namespace {

struct Chosen {
  const int32_t* ids;
  int64_t k, shared, begin;

  // The local column of a token's j-th chosen id; -1: not on this rank.
  __device__ int64_t column(int64_t j) const {
    const int64_t c = ids[blockIdx.x * k + j] - begin;
    return c >= 0 && c < shared ? c : -1;
  }
};
Chosen chosen_of(const TopKColumns& columns, const LossInputs& in) {
  return {columns.ids.data<int32_t>(), columns.ids.dim(1), columns.shared, in.begin};
}

__global__ void __launch_bounds__(kBlock)
    top_k_statistics_kernel(LossRow row, Chosen chosen, float* logits, int64_t C, float* maxima, double* sums,
                            float* values) {
  const int64_t i = blockIdx.x, label = row.label();
  float* const x = logits + i * row.V;
  float* const kept = values + i * chosen.k;
  const float of_label = label >= 0 ? x[label] : 0.0f;
  __syncthreads();
  for (int64_t j = threadIdx.x; j < chosen.k; j += kBlock) {
    const int64_t c = chosen.column(j);
    kept[j] = c >= 0 ? x[c] : 0.0f;
    if (c >= 0) x[c] = -INFINITY;
  }
  __syncthreads();
  Running rest, all;
  for (int64_t c = threadIdx.x * kTogether; c < row.V; c += kTogether * kBlock) {
    const Logits own = logits_at(x, c, row.V);
    all.update(own, own);
    if (c >= chosen.shared) continue;
    Logits s = own * row.inverse;
#pragma unroll
    for (int n = 0; n < kTogether; ++n)
      if (c + n >= chosen.shared) s.x[n] = -INFINITY;
    rest.update(s, s);
  }
  __syncthreads();
  for (int64_t j = threadIdx.x; j < chosen.k; j += kBlock)
    if (const int64_t c = chosen.column(j); c >= 0) {
      Logits own;
      own.x[0] = kept[j];
#pragma unroll
      for (int n = 1; n < kTogether; ++n) own.x[n] = -INFINITY;
      all.update(own, own);
      x[c] = kept[j];
    }
  float largest[2];
  double total[2], unused;
  rest.reduce(largest[0], total[0], unused);
  all.reduce(largest[1], total[1], unused);
  if (threadIdx.x != 0) return;
  maxima[i] = largest[0], maxima[C + i] = -INFINITY, maxima[2 * C + i] = largest[1];
  sums[i] = total[0], sums[C + i] = sums[2 * C + i] = 0, sums[3 * C + i] = total[1];
  sums[4 * C + i] = of_label;
}

// The same formulas as the CPU's.
__global__ void __launch_bounds__(kBlock)
    top_k_divergence_kernel(int64_t k, const float* maxima, const double* sums, const float* chosen,
                            const float* teacher, double inverse, double beta, double* divergence,
                            float* slopes) {
  const int64_t i = blockIdx.x;
  const float *x = chosen + i * k, *log_q = teacher + i * (k + 1);
  const double rest = maxima[i] + log(sums[i]);
  const auto logit = [&](int64_t j) { return j < k ? x[j] * inverse : rest; };
  float most = -INFINITY;
  for (int64_t j = threadIdx.x; j <= k; j += kBlock) most = fmaxf(most, static_cast<float>(logit(j)));
  most = block_max(most);
  double total = 0;
  for (int64_t j = threadIdx.x; j <= k; j += kBlock) total += exp(logit(j) - most);
  const double log_total = most + log(block_sum(total));
  const auto log_p = [&](int64_t j) { return logit(j) - log_total; };
  const auto log_m = [&](int64_t j) {
    return beta == 0   ? log_p(j)
           : beta == 1 ? double(log_q[j])
                       : log(beta * exp(double(log_q[j])) + (1 - beta) * exp(log_p(j)));
  };
  double of_teacher = 0, of_student = 0;
  for (int64_t j = threadIdx.x; j <= k; j += kBlock) {
    const double p = exp(log_p(j)), q = exp(double(log_q[j])), m = log_m(j);
    if (p != 0) of_student += p * (log_p(j) - m);
    if (q != 0) of_teacher += q * (log_q[j] - m);
  }
  of_teacher = block_sum(of_teacher), of_student = block_sum(of_student);
  for (int64_t j = threadIdx.x; j <= k; j += kBlock) {
    const double p = exp(log_p(j)), over_m = p == 0 ? 0 : log_p(j) - log_m(j);
    slopes[i * (k + 1) + j] = static_cast<float>(
        beta == 0 ? p - exp(double(log_q[j])) : (beta == 1 ? 1 : 1 - beta) * p * (over_m - of_student));
  }
  if (threadIdx.x == 0)
    divergence[i] = beta == 0   ? of_teacher
                    : beta == 1 ? of_student
                                : beta * of_teacher + (1 - beta) * of_student;
}

__global__ void __launch_bounds__(kBlock)
    top_k_gradient_kernel(LossRow row, Chosen chosen, int64_t C, const float* maxima, const double* sums,
                          const float* values, const float* slopes, const float* kl_scale,
                          const float* ce_scale, FloatPointer gradient) {
  const int64_t i = blockIdx.x, label = row.label();
  const float kl = kl_scale[i], ce = ce_scale[i], rest_max = maxima[i], x_max = maxima[2 * C + i];
  const float x_factor = ce == 0 ? 0.0f : static_cast<float>(ce / sums[3 * C + i]);
  const float* const slope = slopes + i * (chosen.k + 1);
  const float rest_factor = kl == 0 ? 0.0f : static_cast<float>(kl * slope[chosen.k] / sums[i]);
  const FloatPointer g = gradient.from(i * row.V);
  for (int64_t c = threadIdx.x * kTogether; c < row.V; c += kTogether * kBlock) {
    const Logits own = logits_at(row.x(), c, row.V);
    Logits value;
#pragma unroll
    for (int n = 0; n < kTogether; ++n) {
      float here = 0;
      if (ce != 0) here = x_factor * expf(own.x[n] - x_max);
      if (kl != 0 && c + n < chosen.shared) here += rest_factor * expf(own.x[n] * row.inverse - rest_max);
      if (c + n == label) here -= ce;
      value.x[n] = here;
    }
    store_logits(g, c, row.V, value);
  }
  __syncthreads();
  for (int64_t j = threadIdx.x; j < chosen.k; j += kBlock)
    if (const int64_t c = chosen.column(j); c >= 0) {
      float here = 0;
      if (ce != 0) here = x_factor * expf(values[i * chosen.k + j] - x_max);
      if (kl != 0) here += kl * slope[j];
      g.store(c, c == label ? here - ce : here);
    }
}

}  // namespace

void top_k_statistics(const Stream& stream, const TopKStatisticsArgs& args) {
  const int64_t C = args.in.logits.dim(0);
  WUNENG_ASSERT(args.in.teacher.empty() && args.columns.shared <= args.in.logits.dim(1));
  launch(stream, "top_k_statistics", top_k_statistics_kernel, dim3(C), dim3(kBlock), 0, row_of(args.in),
         chosen_of(args.columns, args.in), args.in.logits.f32(), C, args.maxima.f32(),
         args.sums.data<double>(), args.chosen.f32());
}

void top_k_divergence(const Stream& stream, const TopKDivergenceArgs& args) {
  launch(stream, "top_k_divergence", top_k_divergence_kernel, dim3(args.chosen.dim(0)), dim3(kBlock), 0,
         args.chosen.dim(1), args.maxima.f32(), args.sums.data<double>(), args.chosen.f32(),
         args.teacher.f32(), double(args.inverse_temperature), double(args.beta),
         args.divergence.data<double>(), args.slopes.f32());
}

void top_k_gradient(const Stream& stream, const TopKGradientArgs& args) {
  const int64_t C = args.in.logits.dim(0);
  launch(stream, "top_k_gradient", top_k_gradient_kernel, dim3(C), dim3(kBlock), 0, row_of(args.in),
         chosen_of(args.columns, args.in), C, args.maxima.f32(), args.sums.data<double>(), args.chosen.f32(),
         args.slopes.f32(), args.kl_scale.f32(), args.ce_scale.f32(), float_pointer(args.gradient));
}

}  // namespace wuneng::kernels::cuda
