// A teacher's signal must be for a stage of the student that has a loss: elsewhere nobody takes it, and the
// run would wait for ever.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "launch/train/teacher_service.h"

namespace wuneng::streamed_signals_test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

class LossOnStage : public OutputObjective {
 public:
  explicit LossOnStage(int stage) : stage_(stage) {}
  std::vector<std::string> teacher_signals() const override { return {"logits"}; }
  bool has_loss(int stage, int) const override { return stage == stage_; }
  std::vector<std::string> sums() const override { return {}; }
  Var loss(Tape&, const ObjectiveInputs&, const Tensor&) const override { return {}; }
  std::vector<Metric> metrics(const std::vector<double>&) const override { return {}; }

 private:
  int stage_;
};

TEST(StreamedSignals, AreForStagesWithALoss) {
  const auto made =
      std::make_unique<TrainRecipe>();  // on the stack GCC 12 warns of members that nobody reads
  TrainRecipe& recipe = *made;
  recipe.student.vocab_size = 16;
  recipe.teacher = recipe.student;
  recipe.layout = {1, 3, 1};
  recipe.teacher_layout = Layout{1, 1, 1};
  recipe.activations = "f32";
  recipe.objective = std::make_shared<LossOnStage>(2);  // logits are for the last stage
  EXPECT_EQ(streamed_signals(recipe).size(), 1u);
  recipe.objective = std::make_shared<LossOnStage>(0);
  EXPECT_THAT(
      [&] { streamed_signals(recipe); },
      ThrowsMessage<Error>(AllOf(HasSubstr("loss.objective: it asks for the teacher signal 'logits' on "
                                           "student stage 2 of 3"),
                                 HasSubstr("expected a stage on which it has a loss"))));
}

}  // namespace
}  // namespace wuneng::streamed_signals_test
