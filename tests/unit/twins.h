// One call of a kernel made twice, on the CPU and on a GPU, from the same numbers.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "runtime/device_memory.h"
#include "runtime/tensor.h"

namespace wuneng {

// One device's side: makes the tensors of the call and remembers those that it writes.
class Side {
 public:
  Side(Device device, unsigned seed) : stream(compute_stream(device)), random_(seed) {}

  const Stream stream;

  Tensor uniform(Shape shape, float low, float high, DType dtype = DType::f32) {
    std::uniform_real_distribution<float> d(low, high);
    return make(std::move(shape), dtype, [&] { return d(random_); });
  }
  Tensor normal(Shape shape, DType dtype = DType::f32) {
    std::normal_distribution<float> d;
    return make(std::move(shape), dtype, [&] { return d(random_); });
  }
  template <class T>
  Tensor table(const std::vector<T>& values) {
    return Tensor::from<T>(values, {static_cast<int64_t>(values.size())}).to(stream.device);
  }
  std::vector<int32_t> whole_numbers(int64_t count, int32_t low, int32_t high) {
    std::uniform_int_distribution<int32_t> d(low, high);
    std::vector<int32_t> values(count);
    for (int32_t& v : values) v = d(random_);
    return values;
  }

  // Written by the kernel: NaN at first, and in both twins wherever the kernel writes nothing.
  Tensor out(Shape shape) {
    return remember(
        make(std::move(shape), DType::f32, [] { return std::numeric_limits<float>::quiet_NaN(); }));
  }
  // Added to by the kernel.
  Tensor sum(Shape shape) { return remember(normal(std::move(shape))); }
  Tensor remember(Tensor t) {
    outputs.push_back(t);
    return t;
  }

  std::vector<Tensor> outputs;

 private:
  template <class F>
  Tensor make(Shape shape, DType dtype, F next) {
    Tensor t = Tensor::empty(std::move(shape));
    for (int64_t i = 0; i < t.numel(); ++i) t.f32()[i] = next();
    return t.to(dtype).to(stream.device);
  }
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

// call(Side&) makes its tensors through the side and starts kernels; every remembered tensor is compared, as
// |difference| / |CPU's| over its elements, and where one is NaN both must be.
template <class F>
void expect_twins_agree(F call, double tolerance = 1e-5, unsigned seed = 1) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU here";
  Side cpu({}, seed), cuda({DeviceKind::cuda, 0}, seed);
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
      error += (a[i] - b[i]) * (a[i] - b[i]);
      norm += a[i] * a[i];
    }
    EXPECT_LT(untouched, static_cast<int64_t>(a.size())) << "output " << n << ": nothing was written";
    EXPECT_LE(std::sqrt(error), tolerance * std::sqrt(norm))
        << "output " << n << " " << to_string(cpu.outputs[n].shape());
  }
}

}  // namespace wuneng
