// The order in which the tape runs its closures, in one pass and in halves, with marks.
#include "runtime/tape.h"

#include <fmt/ranges.h>
#include <gmock/gmock.h>

namespace wuneng {
namespace {

using testing::ElementsAre;
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
        [=, this] { note(name + " weight"); });
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
          note("weight " + name));
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
    tape.backward_weights();
    EXPECT_EQ(
        fmt::format("{}", fmt::join(ran, ", ")),
        in_halves ? "weight d, prompt mark, weight c, late mark, weight b, mark, weight a, weight z" : "");
  }
}

}  // namespace
}  // namespace wuneng
