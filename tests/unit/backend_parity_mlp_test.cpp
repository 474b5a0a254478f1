// The CUDA backends of SwiGLU and of copies of tensors against the CPU's.
#include "kernels/rows.h"
#include "kernels/swiglu.h"
#include "tests/unit/backends.h"

namespace wuneng::kernels::backend_parity_mlp_test {
namespace {

constexpr int64_t T = 37;

// Of any size and alignment.
TEST(BackendParity, CopiesOfTensors) {
  expect_backends_agree([](Side& side) {
    CopyTensorsArgs args;
    for (const int64_t n : {1, 3, 8, 4000, 70'001})
      for (const int64_t skipped : {0, 1})
        args.copies.push_back(
            {side.normal({n + 1}).rows(skipped, n + skipped), side.out({n + 1}).rows(skipped, n + skipped)});
    copy_tensors(side.stream, args);
  });
}

// Rows of whole vectors and others.
TEST(BackendParity, Swiglu) {
  for (const int64_t F : {32, 37, 4, 1})
    expect_backends_agree([&](Side& side) {
      const Tensor x = side.normal({T, 2 * F}), dy = side.normal({T, F});
      swiglu(side.stream, {.x = x, .y = side.out({T, F})});
      swiglu_backward(side.stream, {.x = x, .dy = dy, .dx = {side.out({T, 2 * F}), {}}});
      swiglu_backward(side.stream, {.x = x, .dy = dy, .dx = side.sum({T, 2 * F})});
    });
}

}  // namespace
}  // namespace wuneng::kernels::backend_parity_mlp_test
