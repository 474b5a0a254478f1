#include "kernels/loss.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/simd.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

// Columns [first, first + count) of one row as float: in place, or converted into `scratch`.
const float* row_of(const Tensor& t, int64_t row, int64_t first, int64_t count, std::vector<float>& scratch) {
  const int64_t at = row * t.dim(1) + first;
  if (t.dtype() == DType::f32) return t.f32() + at;
  scratch.resize(count);
  const bf16* x = t.data<bf16>() + at;
  for (int64_t i = 0; i < count; ++i) scratch[i] = static_cast<float>(x[i]);
  return scratch.data();
}

}  // namespace

void logit_max(const Stream&, const LogitMaxArgs& args) {
  parallel_for(args.maximum.dim(0), 4, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch;
    for (int64_t i = begin; i < end; ++i) {
      const float* x = row_of(args.logits, args.row + i, args.first, args.count, scratch);
      float best = args.maximum.f32()[i];
#pragma omp simd reduction(max : best)
      for (int64_t c = 0; c < args.count; ++c) best = std::max(best, x[c] * args.inverse_temperature);
      args.maximum.f32()[i] = best;
    }
  });
}

void kl_sums(const Stream&, const KlSumsArgs& args) {
  const int64_t C = args.student.dim(0), V = args.student.dim(1), count = args.teacher.logits.dim(1);
  const float inverse = args.inverse_temperature;
  double* sums = args.sums.data<double>();
  parallel_for(C, 4, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch;
    for (int64_t i = begin; i < end; ++i) {
      const float* s = args.student.f32() + i * V + args.teacher.first;
      const float* t = row_of(args.teacher.logits, args.teacher.row + i, 0, count, scratch);
      const float s_max = args.student_max.f32()[i], t_max = args.teacher_max.f32()[i];
      constexpr int64_t kBlock = 2048;  // f32 inside a block, f64 across: a vocabulary is 152,064 terms
      for (int64_t from = 0; from < count; from += kBlock) {
        const int64_t to = std::min(count, from + kBlock);
        float es = 0, et = 0, cross = 0;
#pragma omp simd reduction(+ : es, et, cross)
        for (int64_t c = from; c < to; ++c) {
          const float a = s[c] * inverse - s_max, b = t[c] * inverse - t_max, p = exp_fast(b);
          es += exp_fast(a);
          et += p;
          cross += p * (b - a);
        }
        sums[i] += es;
        sums[C + i] += et;
        sums[2 * C + i] += cross;
      }
    }
  });
}

void cross_entropy_sums(const Stream&, const CrossEntropySumsArgs& args) {
  const int64_t C = args.logits.dim(0), V = args.logits.dim(1);
  double* sums = args.sums.data<double>();
  parallel_for(C, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float *x = args.logits.f32() + i * V, maximum = args.maximum.f32()[i];
      constexpr int64_t kBlock = 2048;
      for (int64_t from = 0; from < V; from += kBlock) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = from; c < std::min(V, from + kBlock); ++c) sum += exp_fast(x[c] - maximum);
        sums[i] += sum;
      }
      const int64_t label = args.labels.data<int32_t>()[i] - args.begin;
      if (args.labels.data<int32_t>()[i] >= 0 && label >= 0 && label < V) sums[C + i] += x[label] - maximum;
    }
  });
}

void kl_gradient(const Stream&, const KlGradientArgs& args) {
  const int64_t C = args.student.dim(0), V = args.student.dim(1), count = args.teacher.logits.dim(1);
  const float inverse = args.inverse_temperature;
  const double* sums = args.sums.data<double>();
  parallel_for(C, 4, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch;
    for (int64_t i = begin; i < end; ++i) {
      const float scale = args.scale.f32()[i];
      if (scale == 0) continue;
      const float* s = args.student.f32() + i * V + args.teacher.first;
      const float* t = row_of(args.teacher.logits, args.teacher.row + i, 0, count, scratch);
      float* g = args.gradient.f32() + i * V + args.teacher.first;
      const float s_max = args.student_max.f32()[i], t_max = args.teacher_max.f32()[i];
      const float s_scale = static_cast<float>(scale / sums[i]),
                  t_scale = static_cast<float>(scale / sums[C + i]);
#pragma omp simd
      for (int64_t c = 0; c < count; ++c)
        g[c] += s_scale * exp_fast(s[c] * inverse - s_max) - t_scale * exp_fast(t[c] * inverse - t_max);
    }
  });
}

void cross_entropy_gradient(const Stream&, const CrossEntropyGradientArgs& args) {
  const int64_t C = args.logits.dim(0), V = args.logits.dim(1);
  parallel_for(C, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float *x = args.logits.f32() + i * V, maximum = args.maximum.f32()[i],
                  scale = args.scale.f32()[i];
      float* g = args.gradient.f32() + i * V;
      if (scale == 0) {
        std::fill_n(g, V, 0.0f);
        continue;
      }
      const float factor = static_cast<float>(scale / args.sums.data<double>()[i]);
#pragma omp simd
      for (int64_t c = 0; c < V; ++c) g[c] = factor * exp_fast(x[c] - maximum);
      const int64_t label = args.labels.data<int32_t>()[i] - args.begin;
      if (label >= 0 && label < V) g[label] -= scale;
    }
  });
}

}  // namespace wuneng::kernels::cpu
