// `wuneng verify`: which tensor is named where a step differs from another, and that rounding is not named.
#include "launch/verify/verify.h"

#include <gmock/gmock.h>

#include <random>

#include "launch/verify/verified_step.h"
#include "tests/error_of.h"
#include "tests/unit/scratch_dir.h"

namespace wuneng::verify_test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

Tensor numbers(Shape shape) {
  const Tensor out = Tensor::empty(std::move(shape));
  for (int64_t i = 0; i < out.numel(); ++i) out.f32()[i] = float(i + 1);
  return out;
}

TEST(Verify, PartsAreComparedInTheirPlaces) {
  const Tensor whole = numbers({3, 4});  // 1 .. 12
  const Tensor right = Tensor::from<float>({6, 7, 10, 11}, {2, 2});
  EXPECT_EQ(difference(whole, {{{1, 1}, right}}).size, 0);
  EXPECT_EQ(difference(whole, {{{1, 1}, right}}).elements, 4);
  const Tensor wrong = Tensor::from<float>({6, 7, 10.5, 11.25}, {2, 2});
  const Difference d = difference(whole, {{{0, 0}, numbers({1, 1})}, {{1, 1}, wrong}});
  EXPECT_EQ(d.elements, 5);
  EXPECT_EQ(d.size, 0.5);
  EXPECT_EQ(place(d.index, whole.shape()), "[2, 1]");
  EXPECT_EQ(d.expected, 10);
  EXPECT_EQ(d.found, 10.5);
  right.f32()[1] = NAN;
  EXPECT_EQ(difference(whole, {{{1, 1}, right}}).size, INFINITY);
  EXPECT_THAT(error_of([&] {
                difference(whole, {{{2, 1}, right}});
              }),
              HasSubstr("expected a part of a tensor [3, 4], found one [2, 2] from [2, 1] on"));
}

TEST(Verify, TheFirstWrongTensorInTheOrderOfComputationIsNamed) {
  Observations step, noisy;
  for (const char* name : {"b", "a", "c"}) {
    step.put(name, numbers({2, 3}));
    noisy.put(name, numbers({2, 3}));
  }
  const Tensor moved = numbers({2, 3});
  moved.f32()[0] += 0.25;
  noisy.put("a", moved);
  const VerifyReference reference(step, {noisy}, 0x1p-23, 100);
  EXPECT_EQ(reference.bounds.at("a"), kRoundings * 0.25);
  EXPECT_EQ(reference.bounds.at("b"), kRoundings * 6 * 0x1p-23) << "its largest element's last place";
  EXPECT_EQ(compare(Comm(), reference, step).first_wrong(), nullptr);
  Observations sum;
  sum.put("gradient of w", numbers({3}));
  EXPECT_EQ(VerifyReference(sum, {}, 1, 4 * kTokens).bounds.at("gradient of w"), 2 * kRoundings * 3);

  Observations other = step;
  const Tensor wrong = numbers({2, 3});
  wrong.f32()[4] += 1;
  other.put("a", wrong);  // within its bound
  other.put("c", wrong);
  other.put("d", wrong);
  const Verdict verdict = compare(Comm(), reference, other);
  ASSERT_NE(verdict.first_wrong(), nullptr);
  EXPECT_EQ(verdict.first_wrong()->name, "c");
  EXPECT_EQ(place(verdict.first_wrong()->difference.index, {2, 3}), "[1, 1]");
  EXPECT_EQ(verdict.nearest_to_bound().name, "c");
  EXPECT_THAT(verdict.unknown, ElementsAre("d"));

  Observations less;
  less.put("b", numbers({2, 3}));
  EXPECT_TRUE(compare(Comm(), reference, less).first_wrong()->missing);
  EXPECT_EQ(compare(Comm(), reference, less).first_wrong()->name, "a");
}

class VerifiedSteps : public ScratchTest {
 protected:
  void SetUp() override {
    ScratchTest::SetUp();
    std::mt19937_64 random(7);
    std::string text(4000, ' ');
    for (char& c : text) c = static_cast<char>('a' + random() % 26);
    write("text.txt", text);
    write("recipe.toml",
          "[student]\nhidden_size = 16\nintermediate_size = 24\nlayers = 3\nheads = 4\nkv_heads = 2\n"
          "layer_mixers = [\"1:attention\"]\nchunk = 8\nvocab_size = 256\n[loss]\nobjective = \"ce\"\n"
          "[run]\nout = \"out\"\ndevice = \"cpu\"\n[data]\nseq_len = 24\nmicro_batch = 2\naccumulation = 2\n"
          "paths = [\"" +
              path("text.txt") + "\"]\n");
  }
  Observations step(const std::vector<std::string>& settings = {}, double noise = 0) const {
    const TrainRecipe r = TrainRecipe::load(path("recipe.toml"), settings, TrainRecipe::Use::verify);
    return verified_step(r, Comm(), Device{}, noise, 1);
  }
  VerifyReference reference() const { return {step(), {step({}, 0x1p-23)}, 0x1p-23, 96}; }
};

TEST_F(VerifiedSteps, HaveAllTensorsInTheOrderOfComputation) {
  const Observations seen = step();
  const std::string student = "student, micro-batch ", layer = ": model.layers.";
  const std::vector<std::string>& names = seen.names();
  EXPECT_EQ(names[0], student + "0 forward: model.embed_tokens output");
  EXPECT_EQ(names[1], student + "0 forward" + layer + "0 input of the mixer");
  EXPECT_EQ(names[2], student + "0 forward" + layer + "0 residual after the mixer");
  EXPECT_EQ(names[3], student + "0 forward" + layer + "0 input of the MLP");
  EXPECT_EQ(names[4], student + "0 forward" + layer + "0 residual after the MLP");
  const size_t forward = 1 + 3 * 4 + 1;
  EXPECT_EQ(names[forward - 1], student + "0 forward: model.norm output");
  EXPECT_EQ(names[forward], student + "0 backward: model.norm output");
  EXPECT_EQ(names[2 * forward], student + "1 forward: model.embed_tokens output");
  EXPECT_THAT(names[4 * forward], StartsWith("sum of the objective: "));
  EXPECT_EQ(names.back(), "gradient of model.embed_tokens.weight");
}

TEST_F(VerifiedSteps, DifferWithinTheBoundByRecomputation) {
  const Verdict verdict = compare(Comm(), reference(), step({"run.recompute=true"}));
  EXPECT_EQ(verdict.first_wrong(), nullptr);
  EXPECT_EQ(verdict.nearest_to_bound().difference.size, 0) << "it is equal to the bit";
  EXPECT_TRUE(verdict.unknown.empty());
}

// Two settings that each change one operator of every layer.
TEST_F(VerifiedSteps, ThatComputeSomethingElseAreWrongWhereItBegins) {
  const VerifyReference one = reference();
  const auto first_wrong = [&](const std::string& setting) {
    return compare(Comm(), one, step({setting})).first_wrong()->name;
  };
  EXPECT_EQ(first_wrong("student.rms_norm_eps=1e-7"),
            "student, micro-batch 0 forward: model.layers.0 input of the mixer");
  EXPECT_EQ(first_wrong("student.rope_theta=5000.0"),
            "student, micro-batch 0 forward: model.layers.0 residual after the mixer");
}

TEST_F(VerifiedSteps, HaveBoundsNearRounding) {
  const VerifyReference one = reference();
  for (const std::string& name : one.step.names()) {
    double largest = 0;
    const Tensor& values = one.values(name);
    for (int64_t i = 0; i < values.numel(); ++i)
      largest = std::max<double>(largest, std::abs(values.f32()[i]));
    EXPECT_LE(one.bounds.at(name), 1e-3 * largest) << name;
  }
}

}  // namespace
}  // namespace wuneng::verify_test
