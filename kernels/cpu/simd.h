// Shared by the CPU kernels: math functions that the compiler can vectorise, and reading weights as float.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "runtime/gradient.h"

namespace wuneng::kernels::cpu {

// e^x with a relative error below 2e-7 for -87 <= x <= 88; 0 below (so for -inf), infinity above (no
// saturation); keeps NaN. Branch-free, so that loops vectorise.
inline float exp_fast(float x) {
  const float limited = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  const float shifted =
      limited * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to the nearest whole number
  const float n = shifted - 12582912.0f;
  const float r = (limited - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const float scale = std::bit_cast<float>((std::bit_cast<int32_t>(shifted) + (127 - 0x4b400000)) << 23);
  return x < -87.0f ? 0.0f : x > 88.0f ? std::numeric_limits<float>::infinity() : p * scale;
}

// Both with a relative error below 2e-7 for x > -87; below, sigmoid is less than 2e-38 and goes to 0.
inline float sigmoid(float x) { return 1.0f / (1.0f + exp_fast(-x)); }
inline float silu(float x) { return x * sigmoid(x); }

// tanh with a relative error below 2e-7. Near 0, 1 - 2 / (e^2x + 1) cancels; an odd polynomial (fitted for
// |x| <= 0.6) does not.
inline float tanh_fast(float x) {
  const float s = x * x;
  float p = -6.27638910e-3f;
  p = p * s + 2.11162152e-2f;
  p = p * s - 5.38751385e-2f;
  p = p * s + 1.33329240e-1f;
  p = p * s - 3.33333304e-1f;
  const float large = 1.0f - 2.0f / (exp_fast(2.0f * x) + 1.0f);
  return s < 0.36f ? x + x * s * p : large;
}

// A tensor read as float: itself, or a converted copy of a bf16 weight.
class F32In {
 public:
  explicit F32In(const Tensor& t) : tensor_(t.to(DType::f32)) {}
  const float* data() const { return tensor_.f32(); }

 private:
  Tensor tensor_;
};

// loop(sum), where sum(i, x) puts base[i] + x into element i of the gradient: two loops, so that a gradient
// that nothing has reached yet is only written. Every element is to come once.
template <class Loop>
void add_to(const Gradient& gradient, const Loop& loop) {
  float* out = gradient.out.f32();
  if (!gradient.base.defined()) return loop([out](int64_t i, float x) { out[i] = x; });
  const float* base = gradient.base.f32();
  loop([out, base](int64_t i, float x) { out[i] = base[i] + x; });
}

}  // namespace wuneng::kernels::cpu
