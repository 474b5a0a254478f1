// In the backward pass a decoder reports, layer by layer, which gradients are complete.
#include "model/decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "model/initialize.h"
#include "model/loss.h"

namespace wuneng {
namespace {

struct Case {
  const char* name;
  bool wuneng, tied, recompute;
};

class Completed : public testing::TestWithParam<Case> {};

TEST_P(Completed, GradientsStayAsTheyAreOnceSaidToBe) {
  const auto [name, wuneng, tied, recompute] = GetParam();
  ModelConfig c{.hidden_size = 16,
                .intermediate_size = 12,
                .num_layers = 3,
                .num_heads = 4,
                .num_kv_heads = 2,
                .head_dim = 4,
                .vocab_size = 30,
                .tie_word_embeddings = tied};
  if (wuneng) c.mixer = "wuneng", c.wuneng = preset("full", c), c.wuneng.chunk = 4;
  c.check("test");
  Decoder model(c, {}, DType::f32, recompute);
  const Parameters parameters = model.parameters();
  for (const Parameter* p : parameters) initialize_random(*p, c, 1);
  MicroBatch batch{Tensor::empty({12}, DType::i32), Tensor::empty({12}, DType::i32), {0, 5, 12}};
  for (int t = 0; t < 12; ++t)
    batch.tokens.data<int32_t>()[t] = 7 * t % 30, batch.labels.data<int32_t>()[t] = 11 * t % 30;

  std::vector<size_t> calls;  // the first complete parameter, by call
  std::vector<Tensor> then(parameters.size());
  size_t end = parameters.size();
  Tape tape(model.stream());
  const Var hidden = model.forward(tape, batch, {}, [&](const Parameter* first) {
    const size_t begin = std::find(parameters.begin(), parameters.end(), first) - parameters.begin();
    for (size_t i = begin; i < end; ++i) {
      ASSERT_TRUE(parameters[i]->var.has_grad()) << parameters[i]->name;
      then[i] = parameters[i]->var.grad().clone();
    }
    calls.push_back(end = begin);
  });
  distillation_loss(tape, {}, hidden, model.head(), batch.labels, {}, {.ce_weight = 1}, 12,
                    LossTotals(Device{}))
      .set_grad(Tensor::from<float>({1.0f}, {1}));
  EXPECT_TRUE(calls.empty());
  tape.backward();

  // The final norm and the head, then the layers from the last: all but the embedding.
  ASSERT_EQ(calls.size(), 4);
  EXPECT_EQ(calls[0], parameters.size() - (tied ? 1 : 2));
  for (int i = 1; i < 4; ++i)
    EXPECT_EQ(parameters[calls[i]]->name, fmt::format("model.layers.{}.input_layernorm.weight", 3 - i));
  EXPECT_EQ(calls[3], 1);
  for (size_t i = 1; i < parameters.size(); ++i) {
    ASSERT_TRUE(then[i].defined()) << parameters[i]->name;
    const Tensor& now = parameters[i]->var.grad();
    EXPECT_EQ(std::memcmp(then[i].raw(), now.raw(), now.bytes()), 0) << parameters[i]->name;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Completed,
                         testing::Values(Case{"tied", false, true, false}, Case{"untied", false, false, true},
                                         Case{"wuneng", true, true, false},
                                         Case{"wuneng_recomputed", true, false, true}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace wuneng
