// Compares the backends: runs one kernel call on the CPU and on a GPU with the same inputs.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "runtime/device_memory.h"
#include "runtime/tensor.h"

namespace wuneng {

// The call on one device: creates its tensors and records its outputs. Tensors without an explicit type are
// activations: f32, or on a GPU bf16, for which the CPU gets the same values in f32.
class Side {
 public:
  Side(Device device, DType activations, unsigned seed)
      : stream(compute_stream(device)), activations_(activations), random_(seed) {}

  const Stream stream;

  Tensor uniform(Shape shape, float low, float high, std::optional<DType> dtype = {}) {
    std::uniform_real_distribution<float> d(low, high);
    return make(std::move(shape), dtype, [&] { return d(random_); });
  }
  Tensor normal(Shape shape, std::optional<DType> dtype = {}) {
    std::normal_distribution<float> d;
    return make(std::move(shape), dtype, [&] { return d(random_); });
  }
  template <class T>
  Tensor table(const std::vector<T>& values) {
    return Tensor::from<T>(values, {static_cast<int64_t>(values.size())}).to(stream.device);
  }
  // An activation from an f32 host tensor.
  Tensor activation(const Tensor& host) {
    const Tensor t = host.to(activations_);
    return stream.device.kind == DeviceKind::cpu ? t.to(DType::f32) : t.to(stream.device);
  }
  std::vector<int32_t> whole_numbers(int64_t count, int32_t low, int32_t high) {
    std::uniform_int_distribution<int32_t> d(low, high);
    std::vector<int32_t> values(count);
    for (int32_t& v : values) v = d(random_);
    return values;
  }

  // An output that the kernel overwrites: NaN before, and compared where it is not written too.
  Tensor out(Shape shape, std::optional<DType> dtype = {}) {
    return remember(make(std::move(shape), dtype, [] { return std::numeric_limits<float>::quiet_NaN(); }));
  }
  // An output that the kernel accumulates into.
  Tensor sum(Shape shape, std::optional<DType> dtype = {}) {
    return remember(normal(std::move(shape), dtype));
  }
  Tensor remember(Tensor t) {
    outputs.push_back(t);
    return t;
  }

  std::vector<Tensor> outputs;

 private:
  template <class F>
  Tensor make(Shape shape, std::optional<DType> dtype, F next) {
    Tensor t = Tensor::empty(std::move(shape));
    for (int64_t i = 0; i < t.numel(); ++i) t.f32()[i] = next();
    return dtype ? t.to(*dtype).to(stream.device) : activation(t);
  }
  DType activations_;
  std::mt19937 random_;
};

inline std::vector<double> values_of(const Tensor& t) {
  const Tensor host = t.to(Device{});
  std::vector<double> out(t.numel());
  for (int64_t i = 0; i < t.numel(); ++i)
    out[i] = t.dtype() == DType::f64    ? host.data<double>()[i]
             : t.dtype() == DType::bf16 ? static_cast<double>(static_cast<float>(host.data<bf16>()[i]))
                                        : host.f32()[i];
  return out;
}

// call(Side&) creates its tensors through the side and launches kernels. Each recorded tensor is compared by
// the norm of the difference over the norm of the CPU's; NaN must be in the same elements.
template <class F>
void expect_backends_agree_in(DType activations, F call, double tolerance) {
  Side cpu({}, activations, 1), cuda({DeviceKind::cuda, 0}, activations, 1);
  call(cpu);
  call(cuda);
  synchronize(cuda.stream.device);
  ASSERT_EQ(cpu.outputs.size(), cuda.outputs.size());
  ASSERT_FALSE(cpu.outputs.empty());
  for (size_t n = 0; n < cpu.outputs.size(); ++n) {
    const std::vector<double> a = values_of(cpu.outputs[n]), b = values_of(cuda.outputs[n]);
    double error = 0, norm = 0;
    int64_t untouched = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      ASSERT_EQ(std::isnan(a[i]), std::isnan(b[i]))
          << "output " << n << " " << to_string(cpu.outputs[n].shape()) << ", element " << i << ": " << a[i]
          << " and " << b[i];
      if (std::isnan(a[i])) {
        ++untouched;
        continue;
      }
      if (std::isinf(a[i]) && a[i] == b[i]) continue;
      error += (a[i] - b[i]) * (a[i] - b[i]);
      norm += a[i] * a[i];
    }
    EXPECT_LT(untouched, static_cast<int64_t>(a.size())) << "output " << n << ": nothing was written";
    EXPECT_LE(std::sqrt(error), tolerance * std::sqrt(norm))
        << "output " << n << " " << to_string(cpu.outputs[n].shape());
  }
}

// With f32 activations, then with bf16 ones, whose results are rounded to 8 bits (relative error up to 2^-9,
// less on average), and once more if a kernel reads the rounded result of another.
template <class F>
void expect_backends_agree(F call, double tolerance = 1e-5, double narrow_tolerance = 5e-3) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU here";
  for (const DType activations : {DType::f32, DType::bf16}) {
    SCOPED_TRACE("activations: " + std::string(to_string(activations)));
    expect_backends_agree_in(activations, call, activations == DType::f32 ? tolerance : narrow_tolerance);
  }
}

}  // namespace wuneng
