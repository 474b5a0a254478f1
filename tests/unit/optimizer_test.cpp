// AdamW against an implementation in double, bf16 parameters and their f32 masters, the learning rate, and
// the gradient norm.
#include "parallel/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "kernels/adamw.h"
#include "parallel/gradients.h"
#include "parallel/learning_rate.h"
#include "runtime/threads.h"

namespace wuneng::optimizer_test {
namespace {

std::vector<float> noise(int64_t n, unsigned seed, float scale = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> out(n);
  for (float& x : out) x = normal(generator);
  return out;
}

Parameter make_parameter(const std::string& name, const std::vector<float>& values,
                         DType dtype = DType::f32) {
  const int64_t n = static_cast<int64_t>(values.size());
  Parameter p;
  p.name = name;
  p.global_shape = {n};
  p.held = p.owned = {0, n};
  p.var = Var(Tensor::from(values, {n}).to(dtype), true, DType::f32);
  return p;
}

Tensor scale_of(float scale) { return Tensor::from<float>({scale}, {1}); }

void set_gradient(const Parameter& p, const std::vector<float>& g) {
  p.var.set_grad(Tensor::from(g, {static_cast<int64_t>(g.size())}));
}

// AdamW as in the paper, in double.
struct DoubleAdamw {
  AdamwOptions o;
  std::vector<double> w, m, v;
  int64_t t = 0;
  DoubleAdamw(const AdamwOptions& options, const std::vector<float>& start)
      : o(options), w(start.begin(), start.end()), m(w.size()), v(w.size()) {}
  void step(const std::vector<float>& g, double lr, double scale, bool decays) {
    ++t;
    for (size_t i = 0; i < w.size(); ++i) {
      const double b1 = o.beta1, b2 = o.beta2, gi = g[i] * scale;
      m[i] = b1 * m[i] + (1 - b1) * gi;
      v[i] = b2 * v[i] + (1 - b2) * gi * gi;
      const double mean = m[i] / (1 - std::pow(b1, t)), variance = v[i] / (1 - std::pow(b2, t));
      w[i] -= lr * (mean / (std::sqrt(variance) + o.eps) + (decays ? o.weight_decay : 0) * w[i]);
    }
  }
};

TEST(Adamw, FollowsDoubleImplementation) {
  const AdamwOptions options{.beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-3f, .weight_decay = 0.3f};
  for (const bool decays : {true, false}) {
    SCOPED_TRACE(decays);
    const int64_t n = 40001;  // more than one thread's part, and not a multiple of a register
    const auto start = noise(n, 1);
    Parameter p = make_parameter("w", start);
    p.decays = decays;
    Optimizer optimizer({&p}, options);
    DoubleAdamw reference(options, start);
    for (int t = 0; t < 20; ++t) {
      const auto g = noise(n, 100 + t);
      const double lr = 1e-2 / (t + 1);
      set_gradient(p, g);
      optimizer.step(lr, scale_of(0.5f));
      reference.step(g, lr, 0.5, decays);
    }
    const Optimizer::State& s = optimizer.states()[0];
    for (int64_t i = 0; i < n; ++i) {
      ASSERT_NEAR(p.var.value().f32()[i], reference.w[i], 3e-6) << i;
      ASSERT_NEAR(s.m.f32()[i], reference.m[i], 1e-6) << i;
      ASSERT_NEAR(s.v.f32()[i], reference.v[i], 1e-6) << i;
    }
    EXPECT_EQ(optimizer.steps_done(), 20);
  }
}

// lr decay = 2.6 ulp of f32 below 1: the factor 1 - lr decay would round to 3 ulp, 15% too much for every
// weight. As a subtraction the rounding errors of the weights average out.
TEST(Adamw, SmallDecayIsNotRoundedToAFactor) {
  const int64_t n = 100000;
  const float lr = 1e-6f, decay = 2.6f * 0x1p-24f / lr;
  std::vector<float> start(n);
  for (int64_t i = 0; i < n; ++i) start[i] = 1 + static_cast<float>(i) / n;
  const Tensor w = Tensor::from(start, {n}), zero = Tensor::zeros({n});
  kernels::adamw(
      {}, {.tensors = {{.master = w, .m = zero, .v = zero, .gradient = zero, .stored = {}, .decay = decay}},
           .lr = lr,
           .beta1 = 0.9f,
           .beta2 = 0.95f,
           .eps = 1e-8f,
           .gradient_scale = {},
           .step = 1});
  double before = 0, lost = 0;
  for (int64_t i = 0; i < n; ++i) {
    before += start[i];
    lost += double(start[i]) - w.f32()[i];
  }
  EXPECT_NEAR(lost / before / (2.6 * 0x1p-24), 1.0, 0.05);
}

TEST(Adamw, SameBitsForAnyThreadCount) {
  const int before = thread_count();
  const int64_t n = 100003;
  std::vector<std::vector<uint8_t>> results;
  for (const int threads : {1, 2, 3}) {
    set_thread_count(threads);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      Parameter p = make_parameter("w", noise(n, 7), dtype);
      Optimizer optimizer({&p}, {});
      for (int t = 0; t < 3; ++t) {
        set_gradient(p, noise(n, 50 + t));
        optimizer.step(1e-2);
      }
      const Tensor& master = optimizer.states()[0].master;
      const auto* bytes = static_cast<const uint8_t*>(master.raw());
      results.emplace_back(bytes, bytes + master.bytes());
    }
  }
  set_thread_count(before);
  for (size_t i = 2; i < results.size(); ++i) EXPECT_TRUE(results[i] == results[i % 2]) << i;
}

TEST(Optimizer, MasterKeepsWhatBf16Loses) {
  const std::vector<float> start(1000, 1.0f);
  Parameter p = make_parameter("w", start, DType::bf16);
  const AdamwOptions options{.weight_decay = 0};
  Optimizer optimizer({&p}, options);
  DoubleAdamw reference(options, start);
  const std::vector<float> g(1000, 0.25f);
  for (int t = 0; t < 100; ++t) {  // each update is a tenth of a bf16 ulp below 1
    set_gradient(p, g);
    optimizer.step(4e-4);
    reference.step(g, 4e-4, 1, false);
  }
  ASSERT_EQ(p.var.value().dtype(), DType::bf16);
  const Tensor& master = optimizer.states()[0].master;
  EXPECT_NE(master.raw(), p.var.value().raw());
  for (int i = 0; i < 1000; ++i) {
    ASSERT_NEAR(master.f32()[i], reference.w[i], 1e-5);
    ASSERT_EQ(p.var.value().data<bf16>()[i].bits, bf16(master.f32()[i]).bits);
  }
  EXPECT_NEAR(reference.w[0], 0.96, 1e-3);  // the reference changes
}

TEST(Optimizer, WriteBackRoundsLoadedMasters) {
  Parameter p = make_parameter("w", {1, 2, 3}, DType::bf16);
  Optimizer optimizer({&p}, {});
  optimizer.states()[0].master.copy_from(Tensor::from<float>({4.0f, 1.00390625f, -6.0f}, {3}));
  optimizer.write_back();
  const bf16* stored = p.var.value().data<bf16>();
  EXPECT_EQ(static_cast<float>(stored[0]), 4.0f);
  EXPECT_EQ(static_cast<float>(stored[1]), 1.0f);  // half way: ties to even
  EXPECT_EQ(static_cast<float>(stored[2]), -6.0f);
}

TEST(Optimizer, HoldsStateOfTrainableParametersOnly) {
  Parameter a = make_parameter("a", {1, 2}), frozen = make_parameter("frozen", {3}),
            b = make_parameter("b", {4}, DType::bf16);
  frozen.trainable = false;
  const int64_t before = memory_use(DeviceKind::cpu).current;
  Optimizer optimizer({&a, &frozen, &b}, {});
  EXPECT_EQ(memory_use(DeviceKind::cpu).current - before, 5 * 64);  // m, v of both; a master of b alone
  EXPECT_EQ(optimizer.states()[0].master.raw(), a.var.value().raw());

  std::vector<std::string> names;
  int64_t bytes = 0;
  for (const auto& [name, tensor, part] : optimizer.named_tensors()) {
    names.push_back(name);
    EXPECT_EQ(tensor.numel(), part.elements.size());
    EXPECT_EQ(tensor.dtype(), DType::f32);
    bytes += tensor.bytes();
  }
  EXPECT_EQ(names, (std::vector<std::string>{"a/m", "a/v", "b/master", "b/m", "b/v"}));
  EXPECT_EQ(optimizer.bytes(), bytes);

  set_gradient(frozen, {5});
  optimizer.step(1);
  EXPECT_EQ(frozen.var.value().f32()[0], 3);
}

// Two optimizers of a part each, in any order, do what one does with the whole.
TEST(Optimizer, PartsAreUpdatedAsTheWhole) {
  const int64_t n = 1000, cut = 333;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Parameter whole = make_parameter("w", noise(n, 2), dtype),
              cut_up = make_parameter("w", noise(n, 2), dtype);
    Optimizer one({&whole}, {}), last({{&cut_up, {cut, n}}}, {}), first({{&cut_up, {0, cut}}}, {});
    EXPECT_EQ(first.bytes() + last.bytes(), one.bytes());
    for (int t = 0; t < 3; ++t) {
      for (const Parameter* p : {&whole, &cut_up}) set_gradient(*p, noise(n, 50 + t));
      one.step(1e-2, scale_of(0.5f));
      last.step(1e-2, scale_of(0.5f));
      EXPECT_EQ(cut_up.var.grad().f32()[cut], 0);
      EXPECT_NE(cut_up.var.grad().f32()[cut - 1], 0);
      first.step(1e-2, scale_of(0.5f));
    }
    const Tensor &a = whole.var.value(), &b = cut_up.var.value();
    EXPECT_EQ(std::memcmp(a.raw(), b.raw(), a.bytes()), 0);
    const Tensor &m = one.states()[0].m, &of_last = last.states()[0].m;
    EXPECT_EQ(std::memcmp(m.rows(cut, n).raw(), of_last.raw(), of_last.bytes()), 0);
  }
}

// As if there had been no step.
TEST(Optimizer, AGradientThatIsNotFiniteChangesNothing) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const auto good = noise(700, 3);
    Parameter a = make_parameter("w", noise(700, 2), dtype), b = make_parameter("w", noise(700, 2), dtype);
    Optimizer with({&a}, {}), without({&b}, {});
    for (int t = 0; t < 3; ++t) {
      if (t > 0) {
        auto bad = noise(700, 9);
        bad[600] = t == 1 ? std::numeric_limits<float>::infinity() : std::nanf("");
        set_gradient(a, bad);
        with.step(1e-2, clip_scale(squared_gradient_norm({&a}, {}, {}), 1));
        with.was_skipped();
        for (int i = 0; i < 700; ++i) ASSERT_EQ(a.var.grad().f32()[i], 0) << i;
      }
      for (auto [p, optimizer] : {std::pair(&a, &with), {&b, &without}}) {
        set_gradient(*p, good);
        optimizer->step(1e-2, clip_scale(squared_gradient_norm({p}, {}, {}), 1));
      }
    }
    const auto equal = [](const Tensor& x, const Tensor& y) {
      return std::memcmp(x.raw(), y.raw(), x.bytes()) == 0;
    };
    EXPECT_TRUE(equal(a.var.value(), b.var.value()));
    for (size_t i = 0; i < with.named_tensors().size(); ++i)
      EXPECT_TRUE(equal(with.named_tensors()[i].tensor, without.named_tensors()[i].tensor));
    EXPECT_EQ(with.steps_done(), 3);
  }
}

TEST(Optimizer, GradientsAreZeroAfterAStep) {
  Parameter p = make_parameter("w", {1, 2});
  Optimizer optimizer({&p}, {});
  set_gradient(p, {5, 6});
  optimizer.step(1e-3);
  EXPECT_EQ(p.var.grad().f32()[0], 0);
  EXPECT_EQ(p.var.grad().f32()[1], 0);
}

TEST(Optimizer, ContinuesFromSavedState) {
  const auto g = noise(500, 3);
  Parameter straight = make_parameter("w", noise(500, 2)), first = make_parameter("w", noise(500, 2));
  Optimizer one({&straight}, {}), two({&first}, {});
  const auto steps = [&](const Parameter& p, Optimizer& optimizer, int n) {
    for (int i = 0; i < n; ++i) {
      set_gradient(p, g);
      optimizer.step(1e-2);
    }
  };
  steps(straight, one, 6);
  steps(first, two, 3);
  Parameter again = make_parameter("w", std::vector<float>(500, 0.0f));
  Optimizer restored({&again}, {});
  const auto from = two.named_tensors(), to = restored.named_tensors();
  for (size_t i = 0; i < from.size(); ++i) to[i].tensor.copy_from(from[i].tensor);
  again.var.value().copy_from(first.var.value());
  restored.set_steps_done(two.steps_done());
  steps(again, restored, 3);
  EXPECT_EQ(std::memcmp(again.var.value().raw(), straight.var.value().raw(), again.var.value().bytes()), 0);
}

TEST(Optimizer, RefusesOtherTypes) {
  Parameter p = make_parameter("w", {1});
  p.var = Var(Tensor::zeros({1}, DType::f16), true, DType::f32);
  EXPECT_THROW(Optimizer({&p}, {}), Error);
}

TEST(LearningRate, WarmsUpThenFallsToTheFloor) {
  const LearningRate lr{.peak = 1.0, .floor = 0.1, .warmup = 10, .steps = 110};
  EXPECT_DOUBLE_EQ(lr.at(0), 0.1);
  EXPECT_DOUBLE_EQ(lr.at(9), 1.0);
  EXPECT_DOUBLE_EQ(lr.at(10), 1.0);
  EXPECT_DOUBLE_EQ(lr.at(35), 0.1 + 0.9 * 0.5 * (1 + std::sqrt(0.5)));
  EXPECT_DOUBLE_EQ(lr.at(60), 0.55);
  EXPECT_DOUBLE_EQ(lr.at(110), 0.1);
  EXPECT_DOUBLE_EQ(lr.at(100000), 0.1);
  for (int t = 10; t < 110; ++t) EXPECT_GT(lr.at(t), lr.at(t + 1)) << t;
}

TEST(LearningRate, EdgesHaveNoGap) {
  const LearningRate none{.peak = 1.0, .floor = 0.1, .warmup = 0, .steps = 4};
  EXPECT_DOUBLE_EQ(none.at(0), 1.0);
  const LearningRate only{.peak = 1.0, .floor = 0.1, .warmup = 4, .steps = 4};
  EXPECT_DOUBLE_EQ(only.at(3), 1.0);
  EXPECT_DOUBLE_EQ(only.at(4), 0.1);
}

double gradient_norm(const std::vector<ParameterPart>& parts) {
  return std::sqrt(squared_gradient_norm(parts, {}, {}).data<double>()[0]);
}

TEST(GradientNorm, CountsOwnedElementsOfTrainableParameters) {
  Parameter a = make_parameter("a", {0, 0, 0, 0}), frozen = make_parameter("frozen", {0}),
            other = make_parameter("other", {0});
  Parameter without = make_parameter("without", {0});
  a.owned = {1, 4};
  frozen.trainable = false;
  other.owned = {0, 0};
  set_gradient(a, {100, 1, 2, 2});
  set_gradient(frozen, {100});
  set_gradient(other, {100});
  EXPECT_DOUBLE_EQ(gradient_norm({&a, &frozen, &other, &without}), 3.0);
}

TEST(GradientNorm,
     SumsInDouble) {  // 1e8 squared swallows 2^18 ones in f32, and its square overflows nothing in double
  std::vector<float> g(1 << 18, 1.0f);
  g[0] = 1e8f;
  g[1] = 1e25f;
  Parameter p = make_parameter("w", g);
  set_gradient(p, g);
  EXPECT_DOUBLE_EQ(gradient_norm({&p}), std::sqrt(1e16 + double(1e25f) * double(1e25f) + (1 << 18) - 2));
  g[1] = 1;
  set_gradient(p, g);
  EXPECT_NEAR(gradient_norm({&p}) / std::sqrt(1e16 + (1 << 18) - 1), 1.0, 1e-12);
}

TEST(ClipScale, ShortensOnlyWhatIsTooLong) {
  const auto scale = [](double squares, double most) {
    return clip_scale(Tensor::from<double>({squares}, {1}), most).f32()[0];
  };
  EXPECT_EQ(scale(16, 1), 0.25f);
  EXPECT_EQ(scale(0.25, 1), 1);
  EXPECT_EQ(scale(16, 0), 1);
  EXPECT_EQ(scale(1e50, 1), 1e-25f);
  for (const double most : {0.0, 1.0})
    for (const double squares : {std::numeric_limits<double>::infinity(), std::nan("")})
      EXPECT_TRUE(std::isnan(scale(squares, most)));
}

TEST(GradientSums, OneRankGivesZerosToParametersWithoutAGradient) {
  Parameter a = make_parameter("a", {1, 2}), b = make_parameter("b", {1});
  a.sum_over_tp = a.sum_over_embedding = true;
  set_gradient(a, {3, 4});
  GradientSums({&a, &b}, {}).finish();
  EXPECT_EQ(a.var.grad().f32()[0], 3);
  EXPECT_EQ(a.var.grad().f32()[1], 4);
  ASSERT_TRUE(b.var.has_grad());
  EXPECT_EQ(b.var.grad().f32()[0], 0);
}

}  // namespace
}  // namespace wuneng::optimizer_test
