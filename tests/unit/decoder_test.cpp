// A decoder's backward pass: layer by layer it says which gradients are complete, and it may go in halves.
#include "model/decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/objectives/vocabulary_loss.h"

namespace wuneng::decoder_test {
namespace {

struct Case {
  const char* name;
  bool wuneng, tied;
  Recompute recompute = Recompute::none;
  bool rwkv7 = false;  // in the second layer and the third
};

// A small model of a case, and a micro-batch that goes through it.
struct Small {
  ModelConfig config;
  std::unique_ptr<Decoder> model;
  Parameters parameters;
  MicroBatch batch{Tensor::empty({12}, DType::i32), Tensor::empty({12}, DType::i32), {0, 5, 12}};
  Tape tape;

  explicit Small(const Case& which)
      : config{.hidden_size = 16,
               .intermediate_size = 12,
               .num_layers = 3,
               .num_heads = 4,
               .num_kv_heads = 2,
               .head_dim = 4,
               .vocab_size = 30,
               .tie_word_embeddings = which.tied} {
    ModelConfig& c = config;
    if (which.rwkv7) c.set_mixer("rwkv7");
    if (which.wuneng) c.set_mixer("wuneng"), c.options["wuneng"]["chunk"] = int64_t{2};
    if (which.rwkv7) c.layer_mixers = {{1, "rwkv7"}, {2, "rwkv7"}};
    c.check("test");
    model = std::make_unique<Decoder>(c, Placement{}, DType::f32, which.recompute);
    parameters = model->parameters();
    model->initialize_random(1);
    // Some start as zeros, behind which gradients are zero.
    for (const Parameter* p : parameters)
      for (int64_t i = 0; i < p->var.value().numel(); ++i)
        p->var.value().f32()[i] += 0.1f * std::sin(float(i + 1));
    for (int t = 0; t < 12; ++t)
      batch.tokens.data<int32_t>()[t] = 7 * t % 30, batch.labels.data<int32_t>()[t] = 11 * t % 30;
  }

  // Records the pass up to the loss, and sets its gradient.
  void forward(const Stage::Completed& completed = {}) {
    const Var hidden = model->forward(tape, batch, {}, completed).hidden;
    vocabulary_loss(tape, {}, hidden, model->head(), batch.labels, {}, {.ce_weight = 1}, 12,
                    Tensor::zeros({3}, DType::f64))
        .set_grad(Tensor::from<float>({1.0f}, {1}));
  }
};

class DecoderBackward : public testing::TestWithParam<Case> {};

TEST_P(DecoderBackward, GradientsStayAsTheyAreOnceSaidToBe) {
  Small small(GetParam());
  const Parameters& parameters = small.parameters;
  std::vector<size_t> calls;  // the first complete parameter, by call
  std::vector<Tensor> then(parameters.size());
  size_t end = parameters.size();
  small.forward([&](const Parameter* first) {
    const size_t begin = std::find(parameters.begin(), parameters.end(), first) - parameters.begin();
    for (size_t i = begin; i < end; ++i) {
      ASSERT_TRUE(parameters[i]->var.has_grad()) << parameters[i]->name;
      then[i] = parameters[i]->var.grad().clone();
    }
    calls.push_back(end = begin);
  });
  EXPECT_TRUE(calls.empty());
  small.tape.backward();

  // The final norm and the head, then the layers from the last: all but the embedding.
  ASSERT_EQ(calls.size(), 4);
  EXPECT_EQ(calls[0], parameters.size() - (GetParam().tied ? 1 : 2));
  for (int i = 1; i < 4; ++i)
    EXPECT_EQ(parameters[calls[i]]->name, fmt::format("model.layers.{}.input_layernorm.weight", 3 - i));
  EXPECT_EQ(calls[3], 1);
  for (size_t i = 1; i < parameters.size(); ++i) {
    ASSERT_TRUE(then[i].defined()) << parameters[i]->name;
    const Tensor& now = parameters[i]->var.grad();
    EXPECT_EQ(std::memcmp(then[i].raw(), now.raw(), now.bytes()), 0) << parameters[i]->name;
  }
}

TEST_P(DecoderBackward, HalvesGiveTheSameGradientsToTheBit) {
  Small whole(GetParam()), halves(GetParam());
  whole.forward();
  whole.tape.backward();
  int calls = 0;
  halves.forward([&](const Parameter*) { ++calls; });
  halves.tape.backward_inputs();
  // Matrices' gradients are left to the weight half, but for the output matrix's, which comes with the loss.
  EXPECT_EQ(calls, 0);
  for (const Parameter* p : halves.parameters)
    EXPECT_TRUE(!p->name.ends_with("_proj.weight") || !p->var.has_grad()) << p->name;
  halves.tape.backward_weights();
  EXPECT_EQ(calls, 4);
  for (size_t i = 0; i < whole.parameters.size(); ++i) {
    const Tensor &expected = whole.parameters[i]->var.grad(), &found = halves.parameters[i]->var.grad();
    ASSERT_TRUE(expected.defined() && found.defined()) << whole.parameters[i]->name;
    EXPECT_EQ(std::memcmp(expected.raw(), found.raw(), found.bytes()), 0) << whole.parameters[i]->name;
  }
}

TEST(DecoderRecomputation, ChangesNoGradientByABitAndKeepsLess) {
  for (const Case& which : {Case{"attention", false, true}, Case{"wuneng", true, false},
                            Case{"wuneng and rwkv7", true, true, Recompute::none, true}}) {
    SCOPED_TRACE(which.name);
    Small none(which);
    std::vector<int64_t> kept;  // bytes of activations, by what is recomputed
    const auto forward = [&](Small& small) {
      const int64_t before = memory_use(DeviceKind::cpu).current;
      small.forward();
      kept.push_back(memory_use(DeviceKind::cpu).current - before);
    };
    forward(none);
    none.tape.backward();
    for (const Recompute again : {Recompute::mixer, Recompute::mlp, Recompute::parts, Recompute::layer}) {
      SCOPED_TRACE(recompute_names()[static_cast<size_t>(again)]);
      Case other = which;
      other.recompute = again;
      Small small(other);
      forward(small);
      small.tape.backward();
      for (size_t i = 0; i < small.parameters.size(); ++i) {
        const Tensor &expected = none.parameters[i]->var.grad(), &found = small.parameters[i]->var.grad();
        ASSERT_TRUE(expected.defined() && found.defined()) << none.parameters[i]->name;
        EXPECT_EQ(std::memcmp(expected.raw(), found.raw(), found.bytes()), 0) << none.parameters[i]->name;
      }
    }
    EXPECT_GT(kept[0], std::max(kept[1], kept[2]));
    EXPECT_GT(std::min(kept[1], kept[2]), kept[3]);
    EXPECT_GT(kept[3], kept[4]);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, DecoderBackward,
                         testing::Values(Case{"tied", false, true},
                                         Case{"untied", false, false, Recompute::layer},
                                         Case{"wuneng", true, true},
                                         Case{"wuneng_recomputed", true, false, Recompute::layer},
                                         Case{"wuneng_parts_recomputed", true, true, Recompute::parts}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace wuneng::decoder_test
