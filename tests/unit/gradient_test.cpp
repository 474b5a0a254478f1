// Shared gradients: accumulating into one does not modify a tensor that others still read.
#include <gtest/gtest.h>

#include <cmath>
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

// Of a weight that is applied to pieces of rows one after the other, formed at once and piece by piece.
TEST(Gradient, OfAWeightOfSeveralPiecesFormedAtOnce) {
  constexpr int64_t T = 7, H = 2, D = 3;
  Parameter weight;
  weight.var = Var(numbers({H, D, D}, 1), true);
  const auto gradient = [&](bool at_once) {
    weight.var.drop_grad();
    Tape tape;
    const ops::JointGradientsPtr joint = at_once ? ops::JointGradients::begin(tape) : nullptr;
    std::vector<Var> out;
    for (int piece = 0; piece < 3; ++piece)
      out.push_back(
          ops::head_linear(tape, Var(numbers({T - piece, H, D}, 2 + piece)), &weight, {}, {}, joint));
    for (int piece = 0; piece < 3; ++piece) out[piece].set_grad(numbers({T - piece, H, D}, 5 + piece));
    tape.backward();
    return weight.var.grad().clone();
  };
  const Tensor together = gradient(true), apart = gradient(false);
  for (int64_t i = 0; i < together.numel(); ++i) EXPECT_NEAR(together.f32()[i], apart.f32()[i], 1e-5) << i;
}

// y = silu(x A^T) (x B^T) with A and B in one tensor or two, gradients there before or not, and one frozen,
// against loops in double.
TEST(Gradient, OfAGateAndWhatItGatesInOneProduct) {
  constexpr int64_t T = 5, F = 6, d = 7;
  const Tensor x = numbers({T, d}, 1), dy = numbers({T, F}, 2), before = numbers({2, F, d}, 3);
  enum class Case { joined, apart, gradients_before, gradients_apart, frozen };
  for (const Case c :
       {Case::joined, Case::apart, Case::gradients_before, Case::gradients_apart, Case::frozen}) {
    SCOPED_TRACE(static_cast<int>(c));
    const bool accumulates = c == Case::gradients_before || c == Case::gradients_apart;
    Parameter a, b;
    a.var = Var(numbers({F, d}, 4), c != Case::frozen);
    b.var = Var(numbers({F, d}, 5), true);
    if (c != Case::apart) join(a, b);
    EXPECT_EQ(Tensor::together(a.var.value(), b.var.value()).defined(), c != Case::apart);
    const Tensor begun = before.clone(), other = before.clone();
    if (accumulates) a.var.set_grad(begun.view({2 * F, d}).rows(0, F));
    if (accumulates)
      b.var.set_grad((c == Case::gradients_apart ? other : begun).view({2 * F, d}).rows(F, 2 * F));

    Tape tape;
    const Var in(x, true), y = ops::swiglu(tape, ops::linear_pair(tape, in, &a, &b));
    y.set_grad(dy);
    tape.backward();
    EXPECT_EQ(a.var.has_grad(), c != Case::frozen);

    std::vector<double> dx(T * d), da(F * d), db(F * d);
    const float *wa = a.var.value().f32(), *wb = b.var.value().f32();
    for (int64_t t = 0; t < T; ++t)
      for (int64_t f = 0; f < F; ++f) {
        double gate = 0, up = 0;
        for (int64_t i = 0; i < d; ++i) {
          gate += double(wa[f * d + i]) * x.f32()[t * d + i];
          up += double(wb[f * d + i]) * x.f32()[t * d + i];
        }
        const double s = 1 / (1 + std::exp(-gate)), g = dy.f32()[t * F + f];
        EXPECT_NEAR(y.value().f32()[t * F + f], gate * s * up, 1e-5);
        const double dgate = g * up * s * (1 + gate * (1 - s)), dup = g * gate * s;
        for (int64_t i = 0; i < d; ++i) {
          dx[t * d + i] += dgate * wa[f * d + i] + dup * wb[f * d + i];
          da[f * d + i] += dgate * x.f32()[t * d + i];
          db[f * d + i] += dup * x.f32()[t * d + i];
        }
      }
    for (int64_t i = 0; i < T * d; ++i) EXPECT_NEAR(in.grad().f32()[i], dx[i], 1e-4) << i;
    for (int64_t i = 0; i < F * d; ++i) {
      if (c != Case::frozen) {
        EXPECT_NEAR(a.var.grad().f32()[i], da[i] + (accumulates ? before.f32()[i] : 0), 1e-4) << i;
      }
      EXPECT_NEAR(b.var.grad().f32()[i], db[i] + (accumulates ? before.f32()[F * d + i] : 0), 1e-4) << i;
    }
  }
}

}  // namespace
}  // namespace wuneng::gradient_test
