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

// The natural logarithm of a normal positive number, with an absolute error below 1e-7 or a relative one
// below 2e-7, whichever is larger.
inline float log_fast(float x) {
  const int32_t bits = std::bit_cast<int32_t>(x);
  const int32_t n = (bits - 0x3f3504f3) >> 23;  // x = 2^n m with m from the root of 1/2 to that of 2
  const float m = std::bit_cast<float>(bits - (n << 23)) - 1.0f, s = m * m;
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const float k = static_cast<float>(n);
  return m + (m * s * p - k * 2.12194440e-4f - 0.5f * s) + k * 0.693359375f;
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
