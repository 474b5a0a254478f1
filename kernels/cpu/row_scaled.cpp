#include "kernels/row_scaled.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/simd.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

constexpr int64_t kRows = 8;  // worth a thread

}  // namespace

void pack_scaled(const Stream&, const PackScaledArgs& args) {
  const int64_t T = args.x.dim(0), C = args.x.dim(1);
  WUNENG_ASSERT(args.packed.shape() == (Shape{T, C + kScaleBytes}));
  const F32In x(args.x);
  int8_t* const packed = args.packed.data<int8_t>();
  parallel_for(T, kRows, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* row = x.data() + t * C;
      int8_t* to = packed + t * (C + kScaleBytes);
      float largest = 0, zeros = 0;
#pragma omp simd reduction(max : largest) reduction(+ : zeros)
      for (int64_t c = 0; c < C; ++c) {
        largest = std::max(largest, std::fabs(row[c]));
        zeros += row[c] * 0.0f;  // NaN where one is not finite
      }
      if (largest < kLeastScaled) largest = 0;
      const bool finite = zeros == 0;
      const float scale = finite ? largest / 127 : std::numeric_limits<float>::quiet_NaN(),
                  inverse = largest > 0 ? 127 / largest : 0.0f;
      for (int64_t c = 0; c < C; ++c) to[c] = static_cast<int8_t>(finite ? std::rint(row[c] * inverse) : 0);
      std::memcpy(to + C, &scale, sizeof scale);
    }
  });
}

void unpack_scaled(const Stream&, const UnpackScaledArgs& args) {
  const int64_t T = args.x.dim(0), C = args.x.dim(1);
  WUNENG_ASSERT(args.packed.shape() == (Shape{T, C + kScaleBytes}));
  const int8_t* const packed = args.packed.data<int8_t>();
  float* const x = args.x.f32();
  parallel_for(T, kRows, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int8_t* from = packed + t * (C + kScaleBytes);
      float scale;
      std::memcpy(&scale, from + C, sizeof scale);
      for (int64_t c = 0; c < C; ++c) x[t * C + c] = scale * static_cast<float>(from[c]);
    }
  });
}

}  // namespace wuneng::kernels::cpu
