// Sequences that are continued from a cache, in pieces of any length and side by side: the logits of whole
// documents, for every mixer and option.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "model/decoder.h"
#include "model/mixers/registry.h"
#include "tests/error_of.h"

namespace wuneng::cache_test {
namespace {

constexpr int64_t kVocab = 40, kChunk = 8;

struct Case {
  std::string name, mixer, preset;
  OptionValues options;
  std::vector<std::string> layer_mixers = {};
  std::string family = "qwen2";
  SlidingWindow window = {};
};

std::vector<Case> cases() {
  using Texts = std::vector<std::string>;
  std::vector<Case> out = {{"attention", "attention", "", {}},
                           {"rwkv7", "rwkv7", "rwkv7", {{"learn_initial_state", true}}},
                           {"arwkv", "rwkv7", "arwkv", {}},
                           {"mixed", "wuneng", "full", {}, {"0:rwkv7", "1:attention"}}};
  for (const char* preset : {"full", "lean", "literal"}) out.push_back({preset, "wuneng", preset, {}});
  const auto full = [&](std::string name, OptionValues options) {
    out.push_back({std::move(name), "wuneng", "full", std::move(options)});
  };
  full("initial_state", {{"learn_initial_state", true}});
  full("lean_values", {{"state_value", Texts{"attention"}}, {"multi_token", false}});
  full("middle_alone", {{"state_value", Texts{"middle"}}, {"multi_token", false}});
  full("token_alone", {{"state_value", Texts{"token"}}, {"token_shift", false}});
  full("additive", {{"cross_head", "additive"}, {"combine_middle", "sum"}, {"state_norm", "none"}});
  full("gated", {{"cross_head", "gated"}, {"combine_state", "sum"}, {"state_heads", int64_t{2}}});
  full("quadratic", {{"state_read", "quadratic"}, {"combine_state", "learned"}, {"token_shift", false}});
  out.push_back({"qwen3", "attention", "", {}, {}, "qwen3"});
  out.push_back({"qwen3_student", "wuneng", "full", {}, {}, "qwen3"});
  out.push_back({"window", "attention", "", {}, {}, "mistral", {5, {1}}});
  out.push_back({"window_student", "wuneng", "full", {}, {}, "qwen3", {5, {0}}});
  full("no_middles", {{"cross_head", "none"}, {"state_value", Texts{"token", "attention"}}});
  return out;
}

ModelConfig config_of(const Case& x) {
  ModelConfig c{.hidden_size = 32,
                .intermediate_size = 24,
                .num_layers = 3,
                .num_heads = 4,
                .num_kv_heads = 2,
                .head_dim = 8,
                .vocab_size = kVocab,
                .rope_theta = 100};
  c.set_family(x.family);
  c.window = x.window;
  c.mixer = x.mixer;
  if (!x.layer_mixers.empty()) c.layer_mixers = parse_layer_mixers(x.layer_mixers, c.num_layers, "test");
  for (const std::string& mixer : c.mixers())
    c.options[mixer] = default_options(mixer_type(mixer, "test"), mixer == x.mixer ? x.preset : "", c,
                                       mixer == x.mixer ? x.options : OptionValues());
  if (c.options.contains("wuneng")) c.options["wuneng"]["chunk"] = kChunk;
  c.check("test");
  return c;
}

// All parameters are random: those that start at 0 would hide what they multiply.
void randomise(Decoder& model) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 1);
  for (const Parameter* p : model.parameters()) {
    const Tensor t = p->var.value();
    const float size = t.ndim() >= 2 ? 1 / std::sqrt(float(t.shape().back())) : 0.5f;
    for (int64_t i = 0; i < t.numel(); ++i) t.f32()[i] = size * normal(random);
  }
}

Tensor tokens_of(int64_t sequence, int64_t begin, int64_t end) {
  const Tensor t = Tensor::empty({end - begin}, DType::i32);
  for (int64_t i = begin; i < end; ++i)
    t.data<int32_t>()[i - begin] = static_cast<int32_t>((i * i + 7 * i + 13 * sequence + 3) % kVocab);
  return t;
}

Tensor whole_logits(Decoder& model, int64_t sequence, int64_t length) {
  Tape tape({}, false);
  return model.logits(
      model.forward(tape, {tokens_of(sequence, 0, length), Tensor(), {0, length}}, {}).hidden.value());
}

class CachedLogits : public testing::TestWithParam<Case> {};

TEST_P(CachedLogits, EqualThoseOfWholeDocuments) {
  Decoder model(config_of(GetParam()), {}, DType::f32);
  randomise(model);
  // Lengths of a part of a chunk, of two chunks exactly, and of more than three.
  const std::vector<int64_t> lengths = {5, 16, 29}, slots = {2, 0, 3};
  std::vector<Tensor> expected;
  for (size_t s = 0; s < lengths.size(); ++s) expected.push_back(whole_logits(model, s, lengths[s]));
  SequenceCache cache = model.make_cache(4, 29);
  for (int round = 0; round < 2; ++round) {  // the second finds what the first has left in the slots
    std::vector<int64_t> done(lengths.size());
    std::mt19937 random(round);
    while (done != lengths) {
      // A piece of each of some sequences: one token, some, or more than two chunks.
      std::vector<int64_t> documents = {0}, in;
      std::vector<int32_t> tokens;
      for (size_t s = 0; s < lengths.size(); ++s) {
        const int64_t piece =
            std::min<int64_t>(lengths[s] - done[s], std::array{1, 0, 3, 8, 19}[random() % 5]);
        if (!piece) continue;
        const Tensor t = tokens_of(s, done[s], done[s] + piece);
        tokens.insert(tokens.end(), t.data<int32_t>(), t.data<int32_t>() + piece);
        documents.push_back(documents.back() + piece);
        in.push_back(static_cast<int64_t>(s));
      }
      if (in.empty()) continue;
      std::vector<int64_t> used;
      for (const int64_t s : in) used.push_back(slots[s]);
      const Tensor found = model.logits(
          model.extend({Tensor::from(tokens, {documents.back()}), Tensor(), documents}, used, cache));
      for (size_t i = 0; i < in.size(); ++i)
        for (int64_t t = 0; t < documents[i + 1] - documents[i]; ++t)
          for (int64_t v = 0; v < kVocab; ++v)
            ASSERT_NEAR(found.f32()[(documents[i] + t) * kVocab + v],
                        expected[in[i]].f32()[(done[in[i]] + t) * kVocab + v], 1e-5)
                << "sequence " << in[i] << ", token " << done[in[i]] + t << ", round " << round;
      for (size_t i = 0; i < in.size(); ++i) done[in[i]] += documents[i + 1] - documents[i];
    }
    for (const int64_t slot : slots) cache.clear(slot);
  }
}

INSTANTIATE_TEST_SUITE_P(Mixers, CachedLogits, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST(SequenceCache, KnowsItsSize) {
  Decoder model(config_of({"lean", "wuneng", "lean", {}}), {}, DType::f32);
  const SequenceCache cache = model.make_cache(3, 10);
  EXPECT_EQ(cache.bytes_per_token(), 3 * 2 * (2 * 8) * 4);          // layers, k and v
  EXPECT_EQ(cache.bytes_per_sequence(), 3 * (4 * 8 * 8 + 32) * 4);  // states, the token before
  EXPECT_EQ(cache.bytes(), 3 * (cache.bytes_per_sequence() + 10 * cache.bytes_per_token()));
}

TEST(SequenceCache, RefusesWhatHasNoPlace) {
  Decoder model(config_of({"attention", "attention", "", {}}), {}, DType::f32);
  SequenceCache cache = model.make_cache(2, 4);
  const auto error = [&](std::vector<int64_t> documents, std::vector<int64_t> slots) {
    const MicroBatch batch{tokens_of(0, 0, documents.back()), Tensor(), documents};
    return error_of([&] { model.extend(batch, slots, cache); });
  };
  EXPECT_THAT(error({0, 5}, {1}), testing::HasSubstr("slot 1: expected at most 4 tokens, found 0 and 5 new"));
  EXPECT_EQ(error({0, 3}, {1}), "no error");
  EXPECT_THAT(error({0, 2}, {1}), testing::HasSubstr("slot 1: expected at most 4 tokens, found 3 and 2 new"));
  EXPECT_THAT(error({0, 1}, {2}), testing::HasSubstr("expected different slots from 0 to 1, found 2"));
  EXPECT_THAT(error({0, 1, 2}, {0, 0}), testing::HasSubstr("different slots"));
}

}  // namespace
}  // namespace wuneng::cache_test
