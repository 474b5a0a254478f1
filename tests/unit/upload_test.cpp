// Tables of a launch: cached by content and type.
#ifdef WUNENG_WITH_CUDA
#include "kernels/cuda/common/upload.h"

#include <gtest/gtest.h>

namespace wuneng::kernels::cuda::upload_test {
namespace {

TEST(Upload, FindsATableOfTheSameContentAndType) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU here";
  const Device gpu{DeviceKind::cuda, 0};
  const Tensor a = upload(std::vector<int32_t>{1, 2, 3}, gpu),
               same = upload(std::vector<int32_t>{1, 2, 3}, gpu),
               other = upload(std::vector<int32_t>{1, 2, 4}, gpu), none = upload(std::vector<int32_t>{}, gpu);
  EXPECT_EQ(a.raw(), same.raw());
  EXPECT_NE(a.raw(), other.raw());
  EXPECT_EQ(none.numel(), 0);
  EXPECT_EQ(other.to(Device{}).data<int32_t>()[2], 4);
  // The same bytes of another type are another table.
  const Tensor zeros = upload(std::vector<int32_t>{0, 0}, gpu),
               numbers = upload(std::vector<float>{0, 0}, gpu);
  EXPECT_EQ(zeros.dtype(), DType::i32);
  EXPECT_EQ(numbers.dtype(), DType::f32);
}

// The cache is bounded; tables are correct beyond its size.
TEST(Upload, ClearsTheCacheBeyondItsLimit) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU here";
  const Device gpu{DeviceKind::cuda, 0};
  std::vector<int32_t> values(1 << 20);
  for (int i = 0; i < 20; ++i) {  // 80 MB of them
    values[0] = i;
    EXPECT_EQ(upload(values, gpu).to(Device{}).data<int32_t>()[0], i);
  }
  values[0] = 0;
  EXPECT_EQ(upload(values, gpu).to(Device{}).data<int32_t>()[0], 0);
}

}  // namespace
}  // namespace wuneng::kernels::cuda::upload_test
#endif
