// Shared gradients: accumulating into one does not modify a tensor that others still read.
#include <gtest/gtest.h>

#include <random>

#include "model/operators.h"

namespace wuneng::gradient_test {
namespace {

Tensor numbers(Shape shape, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const Tensor t = Tensor::empty(std::move(shape));
  for (int64_t i = 0; i < t.numel(); ++i) t.f32()[i] = normal(random);
  return t;
}

void expect_equal(const Tensor& found, const Tensor& expected) {
  ASSERT_EQ(found.numel(), expected.numel());
  for (int64_t i = 0; i < found.numel(); ++i) ASSERT_NEAR(found.f32()[i], expected.f32()[i], 1e-5) << i;
}

TEST(Gradient, IsWrittenThenAddedToInPlaceAndNotWhereItIsShared) {
  const Var x(numbers({6}, 1), true);
  EXPECT_FALSE(x.gradient().base.defined());
  const void* const at = x.grad().raw();
  {
    const Gradient own = x.gradient();
    EXPECT_EQ(own.out.raw(), at);
    EXPECT_EQ(own.base.raw(), at);
  }
  const Tensor given = numbers({6}, 2), before = given.clone();
  const Var y(numbers({6}, 1), true);
  y.add_grad(given);
  EXPECT_EQ(y.grad().raw(), given.raw());  // not copied
  y.add_grad(numbers({6}, 3));
  expect_equal(given, before);
  Tensor sum = before.clone();
  sum.add(numbers({6}, 3));
  expect_equal(y.grad(), sum);
}

// out = h + norm(h) W^T: the gradient of out is shared with h, and W's gradient is computed after the norm
// has accumulated into that of h.
TEST(Gradient, OfAResidualStreamIsNotTouchedBeforeTheWeightsHaveReadIt) {
  constexpr int64_t T = 5, d = 7;
  Parameter weight, norm;
  weight.var = Var(numbers({d, d}, 1), true);
  norm.var = Var(numbers({d}, 2), true);
  const Tensor hidden = numbers({T, d}, 3), dy = numbers({T, d}, 4);
  const auto gradients = [&](bool apart) {
    for (const Parameter* p : {&weight, &norm}) p->var.drop_grad();
    Tape tape;
    const Var h(hidden, true), other(hidden, true);
    const Var normed = ops::rms_norm(tape, h, &norm, 1e-6f);
    // apart: nothing is shared, since the residual is another value with a gradient of its own
    const Var out = ops::linear(tape, normed, &weight, nullptr, apart ? other : h);
    out.set_grad(dy.clone());
    tape.backward_inputs();
    tape.backward_weights();
    if (apart) h.add_grad(other.grad());
    return std::vector<Tensor>{h.grad(), weight.var.grad(), norm.var.grad(), out.value()};
  };
  const std::vector<Tensor> shared = gradients(false), apart = gradients(true);
  for (size_t i = 0; i < shared.size(); ++i) {
    SCOPED_TRACE(i);
    expect_equal(shared[i], apart[i]);
  }
}

TEST(Gradient, OfASumAndItsNormInOnePassIsThatOfTwo) {
  constexpr int64_t T = 5, d = 7;
  Parameter norm;
  norm.var = Var(numbers({d}, 2), true);
  const auto gradients = [&](bool together) {
    norm.var.drop_grad();
    Tape tape;
    const Var a(numbers({T, d}, 3), true), b(numbers({T, d}, 4), true);
    Var sum, normed;
    if (together) {
      std::tie(sum, normed) = ops::add_rms_norm(tape, a, b, &norm, 1e-6f);
    } else {
      sum = ops::add(tape, a, b);
      normed = ops::rms_norm(tape, sum, &norm, 1e-6f);
    }
    sum.set_grad(numbers({T, d}, 5));
    normed.set_grad(numbers({T, d}, 6));
    tape.backward();
    return std::vector<Tensor>{sum.value(), normed.value(), a.grad(), b.grad(), norm.var.grad()};
  };
  const std::vector<Tensor> together = gradients(true), apart = gradients(false);
  for (size_t i = 0; i < together.size(); ++i) {
    SCOPED_TRACE(i);
    expect_equal(together[i], apart[i]);
  }
}

}  // namespace
}  // namespace wuneng::gradient_test
