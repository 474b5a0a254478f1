// A toy objective with a loss on every pipeline stage, added by a registration alone: the trainer's loss,
// metrics and gradient norm over as many stages as there are ranks, against the same stages one after another
// in one process.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "launch/train/train.h"
#include "parallel/gradients.h"

namespace wuneng {
namespace {

// Half the squares of a stage's hidden state, per row with a label.
class ToyObjective : public OutputObjective {
 public:
  std::vector<std::string> teacher_signals() const override { return {}; }
  bool has_loss(int, int) const override { return true; }
  std::vector<std::string> sums() const override { return {"squares", "stages"}; }

  Var loss(Tape& tape, const ObjectiveInputs& in, const Tensor& sums) const override {
    const Tensor& h = in.hidden.value();
    double squares = 0;
    for (int64_t i = 0; i < h.numel(); ++i) squares += 0.5 * double(h.f32()[i]) * h.f32()[i];
    sums.data<double>()[0] += squares / in.loss_tokens;
    sums.data<double>()[1] += 1;
    const Var out = tape.output(Tensor::from<double>({squares / in.loss_tokens}, {1}), tape.recording());
    tape.record(out, [hidden = in.hidden, scale = static_cast<float>(1 / in.loss_tokens)] {
      const Tensor gradient = hidden.value().clone();
      for (int64_t i = 0; i < gradient.numel(); ++i) gradient.f32()[i] *= scale;
      hidden.add_grad(gradient);
    });
    return out;
  }

  std::vector<Metric> metrics(const std::vector<double>& sums) const override {
    return {{"loss", sums[0]}, {"stages", sums[1]}};
  }
};

struct Expected {
  double loss = 0, gradient_norm = 0;
};

// One step's only micro-batch through all stages, forwards and then backwards.
Expected in_one_process(const TrainRecipe& r, const MicroBatch& batch, int stages) {
  double loss_tokens = 0;
  for (int64_t t = 0; t < batch.rows(); ++t) loss_tokens += batch.labels.data<int32_t>()[t] >= 0;
  const ToyObjective objective;
  const Tensor sums = Tensor::zeros({2}, DType::f64);
  std::vector<std::unique_ptr<Decoder>> models;
  std::vector<Tape> tapes(stages);
  std::vector<Var> inputs, outputs;
  for (int s = 0; s < stages; ++s) {
    Decoder& model = *models.emplace_back(
        std::make_unique<Decoder>(r.student, Placement{.stage = s, .stages = stages}, DType::f32));
    model.initialize_random(r.seed);
    inputs.push_back(s == 0 ? Var() : Var(outputs.back().value().clone(), true));
    outputs.push_back(model.forward(tapes[s], batch, {inputs[s], {}}).hidden);
    objective.loss(tapes[s], {model, outputs[s], batch, {}, loss_tokens}, sums)
        .set_grad(Tensor::from<float>({1.0f}, {1}));
  }
  double squares = 0;
  for (int s = stages; s-- > 0;) {
    if (s + 1 < stages) outputs[s].add_grad(inputs[s + 1].grad());
    tapes[s].backward();
    const Parameters all = models[s]->parameters();
    squares += squared_gradient_norm({all.begin(), all.end()}, {}, {}).data<double>()[0];
  }
  return {sums.data<double>()[0], std::sqrt(squares)};
}

TEST(Objective, AToyWithALossOnEveryStage) {
  const Comm world = Comm::world();
  objective_registry()["toy"] = [](const LossOptions&) -> std::unique_ptr<Objective> {
    return std::make_unique<ToyObjective>();
  };
  const std::string root =
      (std::filesystem::temp_directory_path() / fmt::format("wuneng_objective_{}", world.size())).string();
  if (world.rank() == 0) {
    std::filesystem::remove_all(root);
    std::filesystem::create_directories(root);
    std::ofstream(root + "/text.txt") << std::string(3000, 'a') + "bcdefgh";
    std::ofstream(root + "/recipe.toml")
        << "[student]\nmixer = \"attention\"\nhidden_size = 8\nintermediate_size = 12\nlayers = 4\nheads = "
           "2\n"
           "vocab_size = 256\ntie_word_embeddings = false\n[loss]\nobjective = \"toy\"\n[data]\nseq_len = "
           "16\n"
           "micro_batch = 1\npaths = [\""
        << root << "/text.txt\"]\n[optimizer]\nsteps = 1\nclip = 0\n[run]\ndevice = \"cpu\"\nout = \"" << root
        << "/out\"\n[layout]\npp = " << world.size() << "\n";
  }
  world.barrier("recipe");
  const TrainRecipe recipe = TrainRecipe::load(root + "/recipe.toml", {});
  TrainingData data(recipe);
  const MicroBatch batch = data.batch(data.passes()[0], 0, 0);
  train(recipe, data);

  const Expected expected = in_one_process(recipe, batch, world.size());
  std::ifstream metrics(root + "/out/metrics.jsonl");
  std::string line;
  ASSERT_TRUE(std::getline(metrics, line));
  const nlohmann::json step = nlohmann::json::parse(line);
  EXPECT_NEAR(step.at("loss").get<double>(), expected.loss, 1e-9 * expected.loss);
  EXPECT_NEAR(step.at("grad_norm").get<double>(), expected.gradient_norm, 1e-5 * expected.gradient_norm);
  EXPECT_EQ(step.at("stages"), world.size());
  EXPECT_FALSE(step.contains("kl"));
}

}  // namespace
}  // namespace wuneng
