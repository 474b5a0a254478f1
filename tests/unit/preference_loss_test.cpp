// Direct preference optimisation against TRL (tests/golden/dpo, written by make_dpo_golden.py): losses,
// rewards and gradients; and what a student that is its own reference gives.
#include "model/objectives/preference_loss.h"

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "tests/error_of.h"
#include "tests/unit/golden.h"

namespace wuneng::preference_loss_test {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class PreferenceLossTest : public testing::Test {
 protected:
  PreferenceLossTest() {
    std::ifstream(golden("dpo/trl.json")) >> golden_;
    const int64_t d = golden_.at("width"), V = golden_.at("vocabulary");
    const auto labels = golden_.at("labels").get<std::vector<int32_t>>();
    rows_ = static_cast<int64_t>(labels.size());
    batch_ = {Tensor::zeros({rows_}, DType::i32), Tensor::from(labels, {rows_}),
              golden_.at("documents").get<std::vector<int64_t>>(),
              golden_.at("pairs").get<std::vector<int64_t>>()};
    hidden_ = Var(floats("hidden", {rows_, d}), true);
    head_.held = head_.owned = {0, V};
    head_.var = Var(floats("head", {V, d}), true);
    const Tensor reference = floats("reference", {rows_, 1});
    // As a stream gives it: in parts of rows.
    reference_ = {{{0, 20}, {0, 1}, reference.rows(0, 20)}, {{20, rows_}, {0, 1}, reference.rows(20, rows_)}};
  }

  Tensor floats(const char* name, Shape shape) const {
    return Tensor::from(golden_.at(name).get<std::vector<float>>(), std::move(shape));
  }

  // The loss, and the sums by name.
  std::pair<double, std::map<std::string, double>> run(const LossOptions& options, double pairs) {
    const std::vector<std::string> names = preference_loss_sums();
    const Tensor sums = Tensor::zeros({static_cast<int64_t>(names.size())}, DType::f64);
    Tape tape;
    const Var loss = preference_loss(tape, Comm(), hidden_, &head_, batch_, reference_, options, pairs, sums);
    loss.set_grad(Tensor::from<float>({1.0f}, {1}));
    tape.backward();
    std::map<std::string, double> out;
    for (size_t i = 0; i < names.size(); ++i) out[names[i]] = sums.data<double>()[i];
    return {loss.value().data<double>()[0], out};
  }

  json golden_;
  int64_t rows_ = 0;
  MicroBatch batch_;
  Var hidden_;
  Parameter head_;
  std::vector<SignalPart> reference_;
};

double relative_error(const Tensor& found, const std::vector<double>& wanted) {
  double error = 0, norm = 0;
  EXPECT_EQ(found.numel(), static_cast<int64_t>(wanted.size()));
  for (size_t i = 0; i < wanted.size(); ++i) {
    error += std::pow(found.f32()[i] - wanted[i], 2);
    norm += wanted[i] * wanted[i];
  }
  return std::sqrt(error / norm);
}

class PreferenceLoss : public PreferenceLossTest, public testing::WithParamInterface<int> {};

TEST_P(PreferenceLoss, EqualsThatOfTrl) {
  const json& expected = golden_.at("cases").at(GetParam());
  LossOptions options;
  options.beta = expected.at("beta");
  options.label_smoothing = expected.at("label_smoothing");
  options.length_normalised = expected.at("length_normalised");
  options.chunk_tokens = 7;
  const double pairs = 4;
  const auto [loss, sums] = run(options, pairs);
  EXPECT_EQ(sums.at("pairs"), pairs);
  EXPECT_NEAR(loss, expected.at("loss"), 1e-6 * std::abs(expected.at("loss").get<double>()));
  for (const char* name :
       {"loss", "reward_chosen", "reward_rejected", "accuracy", "logp_chosen", "logp_rejected"}) {
    const double wanted = expected.at(name);
    EXPECT_NEAR(sums.at(name) / pairs, wanted, 1e-6 * std::abs(wanted)) << name;
  }
  EXPECT_LE(relative_error(hidden_.grad(), expected.at("hidden_gradient")), 1e-6);
  EXPECT_LE(relative_error(head_.var.grad(), expected.at("head_gradient")), 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Cases, PreferenceLoss, testing::Range(0, 4));

// TRL counts a pair as right where the chosen reward is larger, so none is.
TEST_F(PreferenceLossTest, OfAStudentThatIsItsOwnReference) {
  const LossOptions options{.beta = 0.1};
  Tensor own = Tensor::zeros({rows_, 1});
  for (int64_t t = 0; t < rows_; ++t) {
    const int32_t label = batch_.labels.data<int32_t>()[t];
    if (label < 0) continue;
    const auto logit = [&](int64_t v) {
      double x = 0;
      for (int64_t j = 0; j < hidden_.dim(1); ++j)
        x += double(hidden_.value().f32()[t * hidden_.dim(1) + j]) *
             head_.var.value().f32()[v * hidden_.dim(1) + j];
      return x;
    };
    double sum = 0;
    for (int64_t v = 0; v < head_.var.dim(0); ++v) sum += std::exp(logit(v));
    own.f32()[t] = static_cast<float>(logit(label) - std::log(sum));
  }
  reference_ = {{{0, rows_}, {0, 1}, own}};
  const auto [loss, sums] = run(options, 4);
  EXPECT_NEAR(loss, std::log(2.0), 1e-6);
  EXPECT_NEAR(sums.at("reward_chosen"), 0, 1e-6);
  // Equal rewards to the bit: a pair of two equal answers.
  batch_.pairs = {0};
  batch_.documents = {0, 5, 10, rows_};
  for (int64_t t = 0; t < rows_; ++t)
    batch_.labels.data<int32_t>()[t] = t < 10 && t % 5 > 2 ? static_cast<int32_t>(t % 5) : kNoLabel;
  const int64_t d = hidden_.dim(1);
  std::copy_n(hidden_.value().f32(), 5 * d, hidden_.value().f32() + 5 * d);
  std::fill_n(own.f32(), rows_, -1.0f);
  const auto [same, of_same] = run(options, 1);
  EXPECT_EQ(same, std::log(2.0));
  EXPECT_EQ(of_same.at("accuracy"), 0);
}

// Padding alone, as at the end of an evaluation.
TEST_F(PreferenceLossTest, OfNoPairsIsZero) {
  batch_.pairs = {};
  for (int64_t t = 0; t < rows_; ++t) batch_.labels.data<int32_t>()[t] = kNoLabel;
  const auto [loss, sums] = run({.beta = 0.1}, 3);
  EXPECT_EQ(loss, 0);
  EXPECT_EQ(sums.at("pairs"), 0);
  for (int64_t i = 0; i < hidden_.grad().numel(); ++i) ASSERT_EQ(hidden_.grad().f32()[i], 0);
}

TEST_F(PreferenceLossTest, NamesWhatIsMissing) {
  reference_.pop_back();
  EXPECT_THAT(error_of([&] { run({.beta = 0.1}, 4); }), HasSubstr("expected 51 rows, found 20"));
}

}  // namespace
}  // namespace wuneng::preference_loss_test
