// Algorithms of products that are chosen by time: for every form of a product, with operands as it had them.
#include <cublasLt.h>
#include <gtest/gtest.h>

#include "kernels/matmul.h"
#include "kernels/timed_products.h"
#include "runtime/device_memory.h"

namespace wuneng::products_test {
namespace {

const Device kGpu{DeviceKind::cuda, 0};

Tensor numbers(Shape shape, DType dtype) {
  std::vector<float> values(element_count(shape));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>((i * 37) % 101) / 50 - 1;
  return Tensor::from(values, std::move(shape)).to(dtype).to(kGpu);
}

TEST(EmulatedProducts, TakeTheFastestAlgorithm) {
  const Stream stream = compute_stream(kGpu);
  const Tensor x = numbers({40, 24}, DType::bf16), w = numbers({20, 24}, DType::bf16),
               bias = numbers({20}, DType::f32), base = numbers({40, 20}, DType::f32),
               heads = numbers({3, 8, 8}, DType::bf16);
  const auto fresh = [](Shape shape) { return Tensor::zeros(std::move(shape), DType::f32, kGpu); };
  const auto run = [&] {
    const Tensor y = fresh({40, 20}), dw = fresh({20, 24}), sums = fresh({20}), z = fresh({40, 3, 8});
    const Tensor room = fresh({3 * 20 + 2});
    kernels::matmul(stream, {.a = x, .b = w, .c = y, .transpose_b = true});
    kernels::matmul(stream, {.a = x, .b = w, .c = y, .transpose_b = true, .accumulate = 1});
    kernels::matmul(stream, {.a = x, .b = w, .c = y, .transpose_b = true, .base = base});
    kernels::matmul(stream, {.a = x, .b = w, .c = y, .transpose_b = true, .bias = bias});
    kernels::matmul(stream, {.a = x.rows(0, 3),  // with less alignment
                             .b = w,
                             .c = room.rows(2, 62).view({3, 20}),
                             .transpose_b = true});
    kernels::matmul(stream, {.a = y.to(DType::bf16), .b = x, .c = dw, .transpose_a = true, .sums = sums});
    kernels::head_matmul(stream, {.x = x.view({40, 3, 8}), .w = heads, .y = z.to(DType::bf16)});
    return dw.to(Device{});
  };
  for (const std::string& product : kernels::untimed_products(stream))
    kernels::choose_algorithm(stream, product, "");  // of other tests
  const Tensor before = run();
  const std::vector<std::string> products = kernels::untimed_products(stream);
  EXPECT_EQ(products.size(), 7u);
  emulator::set_fastest_algorithm(2);
  int64_t changed = 0;
  for (const std::string& product : products)
    changed += kernels::choose_algorithm(stream, product, kernels::fastest_algorithm(stream, product));
  EXPECT_EQ(changed, 7);
  EXPECT_TRUE(kernels::untimed_products(stream).empty());
  const Tensor after = run();
  float most = 0;
  for (int64_t i = 0; i < after.numel(); ++i)
    most = std::max(most, std::abs(after.f32()[i] - before.f32()[i]));
  EXPECT_GT(most, 0);
  EXPECT_LT(most, 0.02);
  emulator::set_fastest_algorithm(0);
}

// The first one stays where the others are as fast.
TEST(EmulatedProducts, KeepTheHeuristicsFirst) {
  const Stream stream = compute_stream(kGpu);
  const Tensor x = numbers({17, 24}, DType::bf16), y = Tensor::zeros({17, 17}, DType::f32, kGpu);
  kernels::matmul(stream, {.a = x, .b = x, .c = y, .transpose_b = true});
  emulator::set_fastest_algorithm(-1);
  for (const std::string& product : kernels::untimed_products(stream))
    EXPECT_FALSE(kernels::choose_algorithm(stream, product, kernels::fastest_algorithm(stream, product)));
  emulator::set_fastest_algorithm(0);
}

}  // namespace
}  // namespace wuneng::products_test
