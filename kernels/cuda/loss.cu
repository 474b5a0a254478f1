// One thread block per token; each pass reads the token's logits once.
#include "kernels/cuda/common/loss_rows.h"
#include "kernels/loss.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

// Column ranges as a kernel argument: those of the teacher's slices, then those without a teacher.
struct Ranges {
  struct Range {
    FloatPointer teacher;  // null: none
    int64_t row, columns, first;
  };
  Range all[2 * kMostTeacherSlices + 1];
  int count = 0;

  explicit Ranges(const LossInputs& in) {
    if (in.teacher.size() > kMostTeacherSlices)
      fail("loss: {} slices of the teacher's logits for one rank, expected at most {}", in.teacher.size(),
           kMostTeacherSlices);
    for (const TeacherColumns& t : in.teacher)
      all[count++] = {float_pointer(t.logits), t.row, t.logits.dim(1), t.first};
    for (const auto& [first, columns] : columns_without_teacher(in)) all[count++] = {{}, 0, columns, first};
  }
};

__global__ void __launch_bounds__(kBlock)
    statistics_kernel(LossRow row, Ranges ranges, int64_t C, float* maxima, double* sums) {
  const int64_t i = blockIdx.x;
  Running student, teacher, all;
  for (int r = 0; r < ranges.count; ++r) {
    const Ranges::Range& range = ranges.all[r];
    const FloatPointer x = row.x().from(range.first);
    const FloatPointer t =
        range.teacher ? range.teacher.from((range.row + i) * range.columns) : FloatPointer();
    for (int64_t c = threadIdx.x * kTogether; c < range.columns; c += kTogether * kBlock) {
      const Logits own = logits_at(x, c, range.columns);
      all.update(own, own);
      if (!t) continue;
      const Logits s = own * row.inverse, u = logits_at(t, c, range.columns) * row.inverse;
      student.update(s, s);
      teacher.update(u, u - s);
    }
  }
  float largest[3];
  double total[3], weighted[3];
  student.reduce(largest[0], total[0], weighted[0]);
  teacher.reduce(largest[1], total[1], weighted[1]);
  all.reduce(largest[2], total[2], weighted[2]);
  if (threadIdx.x != 0) return;
  for (int m = 0; m < 3; ++m) maxima[m * C + i] = largest[m];
  const int64_t label = row.label();
  sums[i] = total[0], sums[C + i] = total[1], sums[2 * C + i] = weighted[1], sums[3 * C + i] = total[2];
  sums[4 * C + i] = label >= 0 ? double(row.x()[label]) : 0.0;
}

// p and q of a token, and log(p / m): see Divergence. The same formulas as the CPU's.
struct Mixture {
  float inverse, beta, s_max, u_max, p_factor, q_factor, log_factors;

  __device__ Mixture(const float* maxima, const double* sums, int64_t i, int64_t C, float inverse, float beta)
      : inverse(inverse), beta(beta), s_max(maxima[i]), u_max(maxima[C + i]) {
    p_factor = static_cast<float>(1 / sums[i]), q_factor = static_cast<float>(1 / sums[C + i]);
    log_factors = static_cast<float>(log(sums[i]) - log(sums[C + i]));
  }
  __device__ float p(float x) const { return p_factor * expf(x * inverse - s_max); }
  __device__ float q(float t) const { return q_factor * expf(t * inverse - u_max); }
  __device__ float log_ratio(float x, float t) const {
    const float ratio = ((t * inverse - u_max) - (x * inverse - s_max)) + log_factors;
    return beta == 1 ? ratio : ratio < -80.0f ? -80.0f : ratio > 80.0f ? 80.0f : ratio;
  }
  __device__ float log_p_over_m(float log_ratio) const {
    return beta == 1 ? -log_ratio : -logf((1 - beta) + beta * expf(log_ratio));
  }
};

__global__ void __launch_bounds__(kBlock)
    divergence_kernel(LossRow row, Ranges ranges, int64_t C, const float* maxima, const double* sums,
                      float beta, double* divergence) {
  const int64_t i = blockIdx.x;
  const Mixture mixture(maxima, sums, i, C, row.inverse, beta);
  double of_teacher = 0, of_student = 0;
  for (int r = 0; r < ranges.count; ++r) {
    const Ranges::Range& range = ranges.all[r];
    if (!range.teacher) continue;
    const FloatPointer x = row.x().from(range.first);
    const FloatPointer t = range.teacher.from((range.row + i) * range.columns);
    for (int64_t c = threadIdx.x; c < range.columns; c += kBlock) {
      const float own = x[c], other = t[c], ratio = mixture.log_ratio(own, other),
                  over_m = mixture.log_p_over_m(ratio);
      of_student += mixture.p(own) * over_m;
      of_teacher += mixture.q(other) * (over_m + ratio);
    }
  }
  of_teacher = block_sum(of_teacher), of_student = block_sum(of_student);
  if (threadIdx.x != 0) return;
  divergence[i] = beta == 1 ? 0 : of_teacher;
  divergence[C + i] = of_student;
}

// A single thread block, with a fixed order of summation. divergence: null for beta = 0.
__global__ void __launch_bounds__(kBlock)
    totals_kernel(int64_t C, const float* m, const double* sum, const int32_t* labels, double t2,
                  double ce_weight, double loss_tokens, double beta, const double* divergence, double* totals,
                  double* loss) {
  double kl = 0, ce = 0, tokens = 0;
  for (int64_t i = threadIdx.x; i < C; i += kBlock) {
    if (labels[i] < 0) continue;
    if (ce_weight < 1 && divergence)
      kl += t2 * ((beta == 1 ? 0 : beta) * divergence[i] + (beta == 1 ? 1 : 1 - beta) * divergence[C + i]);
    else if (ce_weight < 1)
      kl += t2 * (sum[2 * C + i] / sum[C + i] - (m[C + i] + log(sum[C + i])) + (m[i] + log(sum[i])));
    ce += m[2 * C + i] + log(sum[3 * C + i]) - sum[4 * C + i];
    tokens += 1;
  }
  kl = block_sum(kl), ce = block_sum(ce), tokens = block_sum(tokens);
  if (threadIdx.x != 0) return;
  totals[0] += kl, totals[1] += ce, totals[2] += tokens;
  *loss += ((1 - ce_weight) * kl + ce_weight * ce) / loss_tokens;
}

__global__ void __launch_bounds__(kBlock)
    gradient_kernel(LossRow row, Ranges ranges, int64_t C, const float* maxima, const double* sums,
                    const float* kl_scale, const float* ce_scale, float beta, const double* divergence,
                    FloatPointer gradient) {
  const int64_t i = blockIdx.x, label = row.label();
  const float kl = kl_scale[i], ce = ce_scale[i];
  const float s_max = maxima[i], u_max = maxima[C + i], x_max = maxima[2 * C + i];
  const float x_factor = ce == 0 ? 0.0f : static_cast<float>(ce / sums[3 * C + i]);
  const float s_factor = kl == 0 ? 0.0f : static_cast<float>(kl / sums[i]);
  const float u_factor = kl == 0 ? 0.0f : static_cast<float>(kl / sums[C + i]);
  for (int r = 0; r < ranges.count; ++r) {
    const Ranges::Range& range = ranges.all[r];
    const FloatPointer x = row.x().from(range.first);
    const FloatPointer g = gradient.from(i * row.V + range.first);
    const FloatPointer t =
        range.teacher ? range.teacher.from((range.row + i) * range.columns) : FloatPointer();
    for (int64_t c = threadIdx.x * kTogether; c < range.columns; c += kTogether * kBlock) {
      const Logits own = logits_at(x, c, range.columns);
      Logits value;
      if (ce != 0) value = map(own, [&](float v) { return x_factor * expf(v - x_max); });
      if (kl != 0 && t && beta > 0) {
        const Mixture mixture(maxima, sums, i, C, row.inverse, beta);
        const float scale = beta == 1 ? kl : (1 - beta) * kl, mean = static_cast<float>(divergence[C + i]);
        value = value + map(own, logits_at(t, c, range.columns), [&](float v, float u) {
                  // Past the end both are -inf.
                  return v == -INFINITY
                             ? 0.0f
                             : scale * mixture.p(v) * (mixture.log_p_over_m(mixture.log_ratio(v, u)) - mean);
                });
      } else if (kl != 0 && t)
        value = value + map(own, logits_at(t, c, range.columns), [&](float v, float u) {
                  return s_factor * expf(v * row.inverse - s_max) - u_factor * expf(u * row.inverse - u_max);
                });
        // The one-hot term; ce is 0 without a label.
#pragma unroll
      for (int j = 0; j < kTogether; ++j)
        if (range.first + c + j == label) value.x[j] -= ce;
      store_logits(g, c, range.columns, value);
    }
  }
}

}  // namespace

void loss_statistics(const Stream& stream, const LossStatisticsArgs& args) {
  const int64_t C = args.in.logits.dim(0);
  launch(stream, "loss_statistics", statistics_kernel, dim3(C), dim3(kBlock), 0, row_of(args.in),
         Ranges(args.in), C, args.maxima.f32(), args.sums.data<double>());
}

void loss_rebase(const Stream& stream, const LossRebaseArgs& args) {
  const int64_t C = args.sums.dim(1);
  const float *from = args.from.f32(), *to = args.to.f32();
  double* sums = args.sums.data<double>();
  for_each(stream, "loss_rebase", 4 * C, [=] __device__(int64_t e) {
    const int64_t row = e / C, at = (row + 1) / 2 * C + e % C;  // rows 0, 1, 1, 2 of the maxima
    if (from[at] != to[at]) sums[e] *= exp(double(from[at]) - to[at]);
  });
}

void loss_divergence(const Stream& stream, const LossDivergenceArgs& args) {
  const int64_t C = args.in.logits.dim(0);
  launch(stream, "loss_divergence", divergence_kernel, dim3(C), dim3(kBlock), 0, row_of(args.in),
         Ranges(args.in), C, args.maxima.f32(), args.sums.data<double>(), args.divergence.beta,
         args.divergence.sums.data<double>());
}

void loss_totals(const Stream& stream, const LossTotalsArgs& args) {
  launch(stream, "loss_totals", totals_kernel, dim3(1), dim3(kBlock), 0, args.sums.dim(1), args.maxima.f32(),
         args.sums.data<double>(), args.labels.data<int32_t>(), double(args.temperature) * args.temperature,
         double(args.ce_weight), args.loss_tokens, double(args.divergence.beta),
         args.divergence.beta > 0 ? args.divergence.sums.data<double>() : nullptr, args.totals.data<double>(),
         args.loss.data<double>());
}

void loss_gradient(const Stream& stream, const LossGradientArgs& args) {
  const int64_t C = args.in.logits.dim(0);
  launch(stream, "loss_gradient", gradient_kernel, dim3(C), dim3(kBlock), 0, row_of(args.in), Ranges(args.in),
         C, args.maxima.f32(), args.sums.data<double>(), args.kl_scale.f32(), args.ce_scale.f32(),
         args.divergence.beta, args.divergence.beta > 0 ? args.divergence.sums.data<double>() : nullptr,
         float_pointer(args.gradient));
}

}  // namespace wuneng::kernels::cuda
