// The order in which the tape runs its closures, in one pass and in halves, with marks.
#include "runtime/tape.h"

#include <fmt/ranges.h>
#include <gmock/gmock.h>

namespace wuneng::tape_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// A chain of operators a, b, c that record what runs, with marks before b and after c.
struct Chain {
  Tape tape;
  std::vector<std::string> ran;
  Var x{Tensor::zeros({1}), true};

  explicit Chain(bool recording = true) : tape({}, recording) {
    Var v = step("a", x);
    mark("before b");
    v = step("b", v);
    v = step("c", v);
    mark("behind c");
    v.set_grad(Tensor::zeros({1}));
  }
  void note(const std::string& what) { ran.push_back(what); }
  void mark(const char* name) {
    tape.mark([=, this] { note(name); });
  }
  Var step(const std::string& name, const Var& in) {
    const Var out = tape.output(Tensor::zeros({1}), tape.wants(in));
    tape.record(
        out,
        [=, this] {
          note(name + " input");
          in.add_grad(out.grad());
        },
        [=, this](const Tensor&) { note(name + " weight"); });
    return out;
  }
};

TEST(Tape, AMarkRunsBetweenWhatIsBeforeAndBehindIt) {
  Chain chain;
  chain.tape.backward();
  EXPECT_THAT(chain.ran, ElementsAre("behind c", "c input", "c weight", "b input", "b weight", "before b",
                                     "a input", "a weight"));
  chain.tape.backward();
  EXPECT_EQ(chain.ran.size(), 8) << "the tape is empty afterwards";
}

TEST(Tape, InHalvesAMarkWaitsForTheWeights) {
  Chain chain;
  chain.tape.backward_inputs();
  EXPECT_THAT(chain.ran, ElementsAre("c input", "b input", "a input"));
  chain.ran.clear();
  chain.tape.backward_weights();
  EXPECT_THAT(chain.ran, ElementsAre("behind c", "c weight", "b weight", "before b", "a weight"));
}

TEST(Tape, ASilentTapeHasNoMarks) {
  Chain chain(false);
  chain.tape.backward();
  EXPECT_THAT(chain.ran, IsEmpty());
}

// The start of an all-reduce, the deferred weight gradients after it, its end; then the last all-reduce and
// what is before it.
TEST(Tape, WeightGradientsOverlapAllReduces) {
  for (const bool in_halves : {false, true}) {
    Tape tape;
    std::vector<std::string> ran;
    const Var x(Tensor::zeros({1}), true);
    const auto note = [&](const std::string& what) { return [&ran, what] { ran.push_back(what); }; };
    const auto linear = [&](const std::string& name, const Var& in) {
      const Var out = tape.output(Tensor::zeros({1}), true);
      tape.record(
          out,
          [=, &ran] {
            ran.push_back(name);
            in.add_grad(out.grad());
          },
          [note = note("weight " + name)](const Tensor&) { note(); });
      return out;
    };
    const auto sum = [&](const std::string& name, const Var& in) {
      const Var out = tape.output(Tensor::zeros({1}), true);
      tape.record_sum(out, note("begin " + name), [=, &ran] {
        ran.push_back("end " + name);
        in.add_grad(out.grad());
      });
      return out;
    };
    const Var a = linear("a", linear("z", x));
    tape.mark(note("mark"));
    const Var b = linear("b", sum("first", a));
    tape.mark(note("late mark"));
    const Var c = linear("c", b);
    tape.mark(note("prompt mark"));
    const Var unused = sum("unused", c);
    const Var d = linear("d", sum("second", c));
    d.set_grad(Tensor::zeros({1}));
    in_halves ? tape.backward_inputs() : tape.backward();
    EXPECT_EQ(fmt::format("{}", fmt::join(ran, ", ")),
              in_halves ? "d, begin second, end second, c, b, begin first, end first, a, z"
                        : "d, begin second, weight d, end second, prompt mark, c, b, begin first, weight c, "
                          "late mark, weight b, end first, mark, a, weight a, z, weight z");
    ran.clear();
    if (in_halves) tape.backward_weights();
    EXPECT_EQ(
        fmt::format("{}", fmt::join(ran, ", ")),
        in_halves ? "weight d, prompt mark, weight c, late mark, weight b, mark, weight a, weight z" : "");
  }
}

TEST(Tape, AMarkWaitsForWeightsLeftForASumThatHasNoGradient) {
  Chain chain;  // its marks and operators, a sum that nothing reads, then an operator
  const Var unused = chain.tape.output(Tensor::zeros({1}), true);
  chain.tape.record_sum(
      unused, [] { FAIL(); }, [] { FAIL(); });
  chain.step("d", chain.x).set_grad(Tensor::zeros({1}));
  chain.tape.backward();
  EXPECT_THAT(chain.ran, ElementsAre("d input", "d weight", "behind c", "c input", "c weight", "b input",
                                     "b weight", "before b", "a input", "a weight"));
}

TEST(Tape, HalvesInTheWrongOrderAreRefused) {
  const auto error_of = [](const std::function<void(Tape&)>& run) -> std::string {
    Chain chain;
    try {
      run(chain.tape);
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing";
  };
  EXPECT_THAT(error_of([](Tape& tape) { tape.backward_weights(); }),
              HasSubstr("backward_weights: expected backward_inputs before it, found 5 operators and marks"));
  EXPECT_THAT(
      error_of([](Tape& tape) {
        tape.backward_inputs();
        tape.backward();
      }),
      HasSubstr("backward: expected backward_weights after backward_inputs, found 5 weight gradients"));
  EXPECT_EQ(error_of([](Tape& tape) {
              tape.backward_inputs();
              tape.backward_weights();
              tape.backward();
            }),
            "nothing");
}

// y = w x, element by element.
Var product(Tape& tape, const Var& x, const Var& w) {
  const auto times = [](const Tensor& a, const Tensor& b) {
    const Tensor out = Tensor::empty(a.shape());
    for (int64_t i = 0; i < a.numel(); ++i) out.f32()[i] = a.f32()[i] * b.f32()[i];
    return out;
  };
  const Var y = tape.output(times(x.value(), w.value()), tape.wants(x, w));
  tape.record(
      y, [=] { x.add_grad(times(y.grad(), w.value())); },
      [=, x = x.value()](const Tensor& dy) { w.add_grad(times(dy, x)); });
  return y;
}

// Two layers, y = w1 w0 x, as they are or recomputed.
struct TwoLayers {
  static constexpr int64_t kCount = 1024;
  Tape tape;
  std::vector<Var> weights;
  Var x;

  explicit TwoLayers(bool recomputed) {
    const auto numbers = [](float first) {
      const Tensor out = Tensor::empty({kCount});
      for (int64_t i = 0; i < kCount; ++i) out.f32()[i] = first + 0.001f * float(i);
      return out;
    };
    weights = {Var(numbers(1), true), Var(numbers(2), true)};
    x = Var(numbers(3), true);
    const auto both = [w = weights](Tape& on, const std::vector<Var>& in) {
      return std::vector<Var>{product(on, product(on, in[0], w[0]), w[1])};
    };
    const Var y = (recomputed ? recompute(tape, {x}, both) : both(tape, {x}))[0];
    y.set_grad(numbers(4));
  }
  static std::vector<float> gradient(const Var& v) {
    return {v.grad().f32(), v.grad().f32() + v.grad().numel()};
  }
};

TEST(Tape, HalvesGiveTheGradientsOfAWholeBackward) {
  for (const bool recomputed : {false, true}) {
    SCOPED_TRACE(recomputed ? "recomputed" : "recorded");
    TwoLayers whole(recomputed), halves(recomputed);
    whole.tape.backward();
    halves.tape.backward_inputs();
    EXPECT_EQ(TwoLayers::gradient(halves.x), TwoLayers::gradient(whole.x));
    for (const Var& w : halves.weights) EXPECT_FALSE(w.has_grad());
    halves.tape.backward_weights();
    for (int i = 0; i < 2; ++i)
      EXPECT_EQ(TwoLayers::gradient(halves.weights[i]), TwoLayers::gradient(whole.weights[i])) << i;
  }
}

TEST(Tape, BetweenTheHalvesItHoldsWhatWeightGradientsRead) {
  const int64_t tensor = TwoLayers::kCount * int64_t(sizeof(float));
  for (const bool recomputed : {false, true}) {
    SCOPED_TRACE(recomputed ? "recomputed" : "recorded");
    const int64_t before = memory_use(DeviceKind::cpu).current;
    TwoLayers two(recomputed);
    two.tape.backward_inputs();
    two.x.drop_grad();
    // w0, w1 and x; of each product its input and its output's gradient, of which one input is x.
    EXPECT_EQ(memory_use(DeviceKind::cpu).current - before, 3 * tensor + 3 * tensor);
    two.tape.backward_weights();
    // w0, w1, x and the weights' gradients.
    EXPECT_EQ(memory_use(DeviceKind::cpu).current - before, 3 * tensor + 2 * tensor);
  }
}

// Notes what it sees, and doubles gradients.
struct Doubling : Observer {
  std::map<std::string, std::vector<float>> seen;

  void value(const ObservedName& name, const Tensor& value) override {
    seen[name.text + " value"] = {value.f32(), value.f32() + value.numel()};
  }
  Tensor gradient(const ObservedName& name, const Tensor& gradient) override {
    seen[name.text + " gradient"] = {gradient.f32(), gradient.f32() + gradient.numel()};
    const Tensor out = gradient.clone();
    out.add(gradient);
    return out;
  }
};

// z = w1 h + w2 h of h = w0 x, which has a name.
TEST(Tape, AnObserverSeesAValueAndItsWholeGradient) {
  for (const bool recomputed : {false, true}) {
    SCOPED_TRACE(recomputed ? "recomputed" : "recorded");
    const auto of = [](float v) { return Tensor::from<float>({v}, {1}); };
    const Var x(of(2), true), w0(of(3), true), w1(of(5), true), w2(of(7), true);
    const auto observer = std::make_shared<Doubling>();
    Tape tape;
    tape.observe(observer);
    const auto function = [=](Tape& on, const std::vector<Var>& in) {
      const Var h = product(on, in[0], w0);
      on.name(h, "layer", "h");
      const Var a = product(on, h, w1), b = product(on, h, w2);
      const Var z = on.output(of(a.value().f32()[0] + b.value().f32()[0]), on.wants(a, b));
      on.record(z, [=] {
        a.add_grad(z.grad());
        b.add_grad(z.grad());
      });
      return std::vector<Var>{z};
    };
    const Var z = (recomputed ? recompute(tape, {x}, function) : function(tape, {x}))[0];
    z.set_grad(of(1));
    tape.backward();
    EXPECT_THAT(observer->seen["layer h value"], ElementsAre(6));
    EXPECT_THAT(observer->seen["layer h gradient"], ElementsAre(12));
    EXPECT_EQ(observer->seen.size(), 2);
    EXPECT_EQ(x.grad().f32()[0], 2 * 12 * 3) << "what the observer returns goes on";
    EXPECT_EQ(w0.grad().f32()[0], 2 * 12 * 2);
    EXPECT_EQ(w1.grad().f32()[0], 6);
  }
}

}  // namespace
}  // namespace wuneng::tape_test
