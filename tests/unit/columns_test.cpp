// Columns cut out of rows, on the CPU and on a GPU, against plain loops.
#include "kernels/columns.h"

#include <gtest/gtest.h>

namespace wuneng::kernels {
namespace {

void check_width(Device device, DType type, int64_t V) {
  constexpr int64_t T = 7;
  const Tensor x = Tensor::empty({T, V});
  for (int64_t i = 0; i < T * V; ++i) x.f32()[i] = 0.37f * static_cast<float>(i) - 50;
  const Tensor there = x.to(device);
  for (const auto& [begin, count] : {std::pair<int64_t, int64_t>{0, V}, {5, 1}, {11, 42}, {8, 32}, {3, 0}}) {
    const Tensor y = Tensor::empty({T, count}, type, device);
    copy_columns(compute_stream(device), {.x = there, .begin = begin, .y = y});
    const Tensor found = y.to(Device{});
    for (int64_t t = 0; t < T; ++t)
      for (int64_t c = 0; c < count; ++c) {
        const float wanted = x.f32()[t * V + begin + c];
        if (type == DType::f32)
          ASSERT_EQ(found.f32()[t * count + c], wanted);
        else
          ASSERT_EQ(found.data<bf16>()[t * count + c].bits, bf16(wanted).bits);
      }
  }
}

void check(Device device, DType type) {
  for (const int64_t V : {53, 56}) check_width(device, type, V);
}

TEST(CopyColumns, OnTheCpu) {
  check({}, DType::f32);
  check({}, DType::bf16);
}

TEST(CopyColumns, OnAGpu) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU here";
  check({DeviceKind::cuda, 0}, DType::f32);
  check({DeviceKind::cuda, 0}, DType::bf16);
}

}  // namespace
}  // namespace wuneng::kernels
