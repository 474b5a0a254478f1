#include "kernels/row_distance.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/simd.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {

void row_distance(const Stream&, const RowDistanceArgs& args) {
  const int64_t T = args.student.dim(0), d = args.student.dim(1);
  const F32In teacher(args.teacher);
  const float *s = args.student.f32(), *t = teacher.data();
  const int32_t* labels = args.labels.data<int32_t>();
  float* gradient = args.gradient.defined() ? args.gradient.f32() : nullptr;
  std::vector<double> distances(T);
  const float root = std::sqrt(static_cast<float>(d));
  parallel_for(T, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float *si = s + i * d, *ti = t + i * d;
      float squares = 0;
      if (labels[i] >= 0) {
#pragma omp simd reduction(+ : squares)
        for (int64_t c = 0; c < d; ++c) squares += (si[c] - ti[c]) * (si[c] - ti[c]);
      }
      const float norm = std::sqrt(squares);
      distances[i] = double(norm) / root;
      if (!gradient) continue;
      float* gi = gradient + i * d;
      if (norm == 0) {  // NaN goes on
        std::fill_n(gi, d, 0.0f);
        continue;
      }
      const float factor = args.scale / (norm * root);
#pragma omp simd
      for (int64_t c = 0; c < d; ++c) gi[c] = factor * (si[c] - ti[c]);
    }
  });
  double total = 0;
  for (int64_t i = 0; i < T; ++i) total += distances[i];
  args.total.data<double>()[0] += total;
  if (args.tokens.defined())
    args.tokens.data<double>()[0] +=
        static_cast<double>(std::count_if(labels, labels + T, [](int32_t label) { return label >= 0; }));
}

}  // namespace wuneng::kernels::cpu
