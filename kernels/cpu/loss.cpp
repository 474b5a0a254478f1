#include "kernels/loss.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/simd.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

constexpr int64_t kBlock =
    2048;  // sums are f32 within a block and f64 across blocks: Qwen2.5 has 152,064 columns

// One token's row of a teacher slice as float: a pointer to it, or a converted copy.
class TeacherRow {
 public:
  TeacherRow(const TeacherColumns& t, int64_t i) : first(t.first), count(t.logits.dim(1)) {
    const int64_t at = (t.row + i) * count;
    if (t.logits.dtype() == DType::f32) {
      in_place_ = t.logits.f32() + at;
      return;
    }
    converted_.resize(count);
    const bf16* x = t.logits.data<bf16>() + at;
    for (int64_t c = 0; c < count; ++c) converted_[c] = static_cast<float>(x[c]);
  }
  const float* data() const { return in_place_ ? in_place_ : converted_.data(); }

  const int64_t first, count;

 private:
  const float* in_place_ = nullptr;
  std::vector<float> converted_;
};

std::vector<TeacherRow> rows_of(const LossInputs& in, int64_t i) {
  std::vector<TeacherRow> rows;
  for (const TeacherColumns& t : in.teacher) rows.emplace_back(t, i);
  return rows;
}

float largest(const float* x, int64_t count, float factor) {
  float best = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : best)
  for (int64_t c = 0; c < count; ++c) best = std::max(best, x[c] * factor);
  return best;
}

double sum_of_exponentials(const float* x, int64_t count, float maximum) {
  double total = 0;
  for (int64_t from = 0; from < count; from += kBlock) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = from; c < std::min(count, from + kBlock); ++c) sum += exp_fast(x[c] - maximum);
    total += sum;
  }
  return total;
}

struct KlSums {
  double student = 0, teacher = 0, cross = 0;

  void add(const float* x, const TeacherRow& row, float inverse, float s_max, float u_max) {
    const float* t = row.data();
    for (int64_t from = 0; from < row.count; from += kBlock) {
      float es = 0, eu = 0, both = 0;
#pragma omp simd reduction(+ : es, eu, both)
      for (int64_t c = from; c < std::min(row.count, from + kBlock); ++c) {
        const float s = x[c] * inverse, u = t[c] * inverse, p = exp_fast(u - u_max);
        es += exp_fast(s - s_max);
        eu += p;
        both += p * (u - s);
      }
      student += es;
      teacher += eu;
      cross += both;
    }
  }
};

// p and q of a token's row, and log(p / m): see Divergence.
class Mixture {
 public:
  Mixture(const Tensor& maxima, const Tensor& sums, int64_t i, float inverse, float beta)
      : inverse_(inverse), beta_(beta) {
    const int64_t C = maxima.dim(1);
    s_max_ = maxima.f32()[i], u_max_ = maxima.f32()[C + i];
    const double s_sum = sums.data<double>()[i], u_sum = sums.data<double>()[C + i];
    p_factor_ = static_cast<float>(1 / s_sum), q_factor_ = static_cast<float>(1 / u_sum);
    log_factors_ = static_cast<float>(std::log(s_sum) - std::log(u_sum));
  }
  float p(float x) const { return p_factor_ * exp_fast(x * inverse_ - s_max_); }
  float q(float t) const { return q_factor_ * exp_fast(t * inverse_ - u_max_); }
  // log(q / p), within what e^x can take where m is not q: beyond it one of both is nothing in m.
  float log_ratio(float x, float t) const {
    const float ratio = ((t * inverse_ - u_max_) - (x * inverse_ - s_max_)) + log_factors_;
    return beta_ == 1 ? ratio : ratio < -80.0f ? -80.0f : ratio > 80.0f ? 80.0f : ratio;
  }
  float log_p_over_m(float log_ratio) const {
    return beta_ == 1 ? -log_ratio : -log_fast((1 - beta_) + beta_ * exp_fast(log_ratio));
  }

 private:
  float inverse_, beta_, s_max_, u_max_, p_factor_, q_factor_, log_factors_;
};

}  // namespace

void loss_statistics(const Stream&, const LossStatisticsArgs& args) {
  const LossInputs& in = args.in;
  const int64_t C = in.logits.dim(0), V = in.logits.dim(1);
  columns_without_teacher(in);  // checks the slices
  float* maxima = args.maxima.f32();
  double* sums = args.sums.data<double>();
  parallel_for(C, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float *x = in.logits.f32() + i * V, none = -std::numeric_limits<float>::infinity();
      const std::vector<TeacherRow> teacher = rows_of(in, i);
      float s_max = none, u_max = none;
      for (const TeacherRow& row : teacher) {
        s_max = std::max(s_max, largest(x + row.first, row.count, in.inverse_temperature));
        u_max = std::max(u_max, largest(row.data(), row.count, in.inverse_temperature));
      }
      KlSums kl;
      for (const TeacherRow& row : teacher) kl.add(x + row.first, row, in.inverse_temperature, s_max, u_max);
      const float x_max = largest(x, V, 1);
      const int64_t label = in.labels.data<int32_t>()[i] - in.begin;
      maxima[i] = s_max, maxima[C + i] = u_max, maxima[2 * C + i] = x_max;
      sums[i] = kl.student, sums[C + i] = kl.teacher, sums[2 * C + i] = kl.cross;
      sums[3 * C + i] = sum_of_exponentials(x, V, x_max);
      sums[4 * C + i] = in.labels.data<int32_t>()[i] >= 0 && label >= 0 && label < V ? x[label] : 0;
    }
  });
}

void loss_rebase(const Stream&, const LossRebaseArgs& args) {
  const int64_t C = args.sums.dim(1);
  constexpr int kMaximum[] = {0, 1, 1, 2};  // of each row of sums
  for (int row = 0; row < 4; ++row)
    for (int64_t i = 0; i < C; ++i) {
      const int64_t at = kMaximum[row] * C + i;
      const float from = args.from.f32()[at], to = args.to.f32()[at];
      if (from != to) args.sums.data<double>()[row * C + i] *= std::exp(double(from) - to);
    }
}

void loss_divergence(const Stream&, const LossDivergenceArgs& args) {
  const LossInputs& in = args.in;
  const int64_t C = in.logits.dim(0), V = in.logits.dim(1);
  const float beta = args.divergence.beta;
  double* sums = args.divergence.sums.data<double>();
  parallel_for(C, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Mixture mixture(args.maxima, args.sums, i, in.inverse_temperature, beta);
      double of_teacher = 0, of_student = 0;
      for (const TeacherRow& row : rows_of(in, i)) {
        const float *x = in.logits.f32() + i * V + row.first, *t = row.data();
        for (int64_t from = 0; from < row.count; from += kBlock) {
          float teacher = 0, student = 0;
#pragma omp simd reduction(+ : teacher, student)
          for (int64_t c = from; c < std::min(row.count, from + kBlock); ++c) {
            const float ratio = mixture.log_ratio(x[c], t[c]), over_m = mixture.log_p_over_m(ratio);
            student += mixture.p(x[c]) * over_m;
            teacher += mixture.q(t[c]) * (over_m + ratio);
          }
          of_teacher += teacher, of_student += student;
        }
      }
      sums[i] = beta == 1 ? 0 : of_teacher;
      sums[C + i] = of_student;
    }
  });
}

void loss_totals(const Stream&, const LossTotalsArgs& args) {
  const int64_t C = args.sums.dim(1);
  const float* m = args.maxima.f32();
  const double* sum = args.sums.data<double>();
  const double beta = args.divergence.beta,
               *divergence = beta > 0 ? args.divergence.sums.data<double>() : nullptr;
  double kl = 0, ce = 0, tokens = 0;
  for (int64_t i = 0; i < C; ++i) {
    if (args.labels.data<int32_t>()[i] < 0) continue;
    if (args.ce_weight < 1 && divergence)
      kl += (beta == 1 ? 0 : beta) * divergence[i] + (beta == 1 ? 1 : 1 - beta) * divergence[C + i];
    else if (args.ce_weight < 1)  // sum p_u (log p_u - log p_s) = E_u[u - s] - log Z_u + log Z_s
      kl += sum[2 * C + i] / sum[C + i] - (m[C + i] + std::log(sum[C + i])) + (m[i] + std::log(sum[i]));
    ce += m[2 * C + i] + std::log(sum[3 * C + i]) - sum[4 * C + i];
    tokens += 1;
  }
  kl *= double(args.temperature) * args.temperature;
  double* totals = args.totals.data<double>();
  totals[0] += kl, totals[1] += ce, totals[2] += tokens;
  args.loss.data<double>()[0] += ((1 - args.ce_weight) * kl + args.ce_weight * ce) / args.loss_tokens;
}

void loss_gradient(const Stream&, const LossGradientArgs& args) {
  const LossInputs& in = args.in;
  const int64_t C = in.logits.dim(0), V = in.logits.dim(1);
  const float *maxima = args.maxima.f32(), inverse = in.inverse_temperature, beta = args.divergence.beta;
  const double* sums = args.sums.data<double>();
  const auto gaps = columns_without_teacher(in);
  parallel_for(C, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* x = in.logits.f32() + i * V;
      float* g = args.gradient.f32() + i * V;
      const float kl = args.kl_scale.f32()[i], ce = args.ce_scale.f32()[i];
      if (kl == 0 && ce == 0) {
        std::fill_n(g, V, 0.0f);
        continue;
      }
      const float s_max = maxima[i], u_max = maxima[C + i], x_max = maxima[2 * C + i];
      const float x_factor = static_cast<float>(ce / sums[3 * C + i]);
      for (const TeacherRow& row : rows_of(in, i)) {
        if (beta > 0) {
          const Mixture mixture(args.maxima, args.sums, i, inverse, beta);
          const float scale = beta == 1 ? kl : (1 - beta) * kl,
                      mean = static_cast<float>(args.divergence.sums.data<double>()[C + i]);
          const float *x_here = x + row.first, *t = row.data();
          float* g_here = g + row.first;
#pragma omp simd
          for (int64_t c = 0; c < row.count; ++c) {
            const float over_m = mixture.log_p_over_m(mixture.log_ratio(x_here[c], t[c])) - mean;
            g_here[c] = x_factor * exp_fast(x_here[c] - x_max) + scale * mixture.p(x_here[c]) * over_m;
          }
          continue;
        }
        const float *t = row.data(), s_factor = static_cast<float>(kl / sums[i]),
                    u_factor = static_cast<float>(kl / sums[C + i]);
        const float* x_here = x + row.first;
        float* g_here = g + row.first;
        if (ce == 0) {
#pragma omp simd
          for (int64_t c = 0; c < row.count; ++c)
            g_here[c] = s_factor * exp_fast(x_here[c] * inverse - s_max) -
                        u_factor * exp_fast(t[c] * inverse - u_max);
        } else {
#pragma omp simd
          for (int64_t c = 0; c < row.count; ++c)
            g_here[c] =
                x_factor * exp_fast(x_here[c] - x_max) + (s_factor * exp_fast(x_here[c] * inverse - s_max) -
                                                          u_factor * exp_fast(t[c] * inverse - u_max));
        }
      }
      for (const auto& gap : gaps)
#pragma omp simd
        for (int64_t c = gap.first; c < gap.first + gap.second; ++c) g[c] = x_factor * exp_fast(x[c] - x_max);
      const int64_t label = in.labels.data<int32_t>()[i] - in.begin;
      if (ce != 0 && label >= 0 && label < V) g[label] -= ce;
    }
  });
}

}  // namespace wuneng::kernels::cpu
