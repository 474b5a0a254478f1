// Mixer rwkv7: how it starts, what it inherits, its sizes and its shards. tests/reference/check_models.py
// holds its outputs and gradients against float64.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "model/decoder.h"
#include "model/mixers/registry.h"
#include "model/parameter_count.h"
#include "model/weight_source.h"
#include "tests/error_of.h"

namespace wuneng::rwkv7_test {
namespace {

using testing::HasSubstr;

constexpr int64_t kHidden = 48, kHeadDim = 8, kLayers = 3;

ModelConfig small(const std::string& mixer, OptionValues given = {}) {
  ModelConfig c{.hidden_size = kHidden,
                .intermediate_size = 20,
                .num_layers = kLayers,
                .num_heads = 4,
                .num_kv_heads = 2,
                .head_dim = 12,
                .vocab_size = 30};
  c.mixer = mixer;
  if (mixer == "rwkv7") given.try_emplace("rwkv_head_dim", kHeadDim);
  c.options[mixer] = default_options(mixer_type(mixer, "test"), "", c, given);
  c.check("test");
  return c;
}

OptionValues all_parts() {
  return {{"rwkv_gate", true}, {"rwkv_group_norm", true}, {"learn_initial_state", true}};
}

std::map<std::string, std::vector<double>> values_of(Decoder& model) {
  std::map<std::string, std::vector<double>> out;
  for (const Parameter* p : model.parameters())
    out[p->name] = {p->var.value().f32(), p->var.value().f32() + p->var.value().numel()};
  return out;
}

// RWKV-LM's formulas, in double precision: l the layer's place, q from 1 down, n the channel's place.
TEST(Rwkv7, StartsAsRwkv7Does) {
  Decoder model(small("rwkv7", all_parts()), {}, DType::f32);
  model.initialize_random(3);
  auto values = values_of(model);
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    const std::string at = fmt::format("model.layers.{}.self_attn.rwkv7.", layer);
    const double l = layer / double(kLayers - 1), q = 1 - layer / double(kLayers);
    const auto expect = [&](const char* name, auto formula) {
      const std::vector<double>& found = values[at + name];
      ASSERT_EQ(found.size(), size_t{kHidden}) << at << name;
      for (int64_t i = 0; i < kHidden; ++i) {
        const double n = i / double(kHidden - 1), u = 2 * (i % kHeadDim) / double(kHeadDim - 1) - 1;
        EXPECT_NEAR(found[i], formula(i / double(kHidden), n, u * std::abs(u)), 1e-5)
            << at << name << " " << i;
      }
    };
    const auto mu = [&](double power) {
      return [=](double i, double, double) { return 1 - std::pow(i, power * q); };
    };
    expect("mu_r", mu(0.2)), expect("mu_g", mu(0.2));
    expect("mu_w", mu(0.9)), expect("mu_a", mu(0.9));
    expect("mu_k", mu(0.7)), expect("mu_v", mu(0.7));
    expect("w0", [&](double, double n, double z) {
      return -6 + 6 * std::pow(n, 1 + std::pow(l, 0.3)) + 0.5 + 2.5 * z;
    });
    expect("a0", [](double, double n, double z) { return -0.19 + 0.3 * z + 0.4 * (n - 0.5); });
    if (layer > 0) expect("v0", [](double, double n, double) { return 0.73 - 0.4 * (n - 0.5); });
    expect("k_k", [](double, double n, double) { return 0.71 - 0.1 * (n - 0.5); });
    expect("k_a", [](double, double, double) { return 1.02; });
    expect("r_k", [](double, double, double) { return -0.04; });
    expect("ln_x.weight",
           [&](double, double, double) { return std::pow((layer + 1) / double(kLayers), 0.7); });
    expect("ln_x.bias", [](double, double, double) { return 0; });
    EXPECT_EQ(values.contains(at + "v0"), layer > 0);  // the first layer makes the values
    for (const char* name : {"o_proj.weight", "w1", "a1", "g1", "g2", "initial_state"})
      EXPECT_THAT((values[at + name]), testing::Each(0)) << at << name;
    EXPECT_EQ(values[at + "initial_state"].size(), size_t{kHidden * kHeadDim});
    // [48, 64]: more columns than rows, whose rows are then orthogonal; [48, 32]: columns.
    for (const auto& [name, columns] : {std::pair{"w2", 64}, {"a2", 64}, {"v2", 32}}) {
      const std::vector<double>& m = values[at + name];
      if (name == std::string("v2") && layer == 0) continue;
      ASSERT_EQ(m.size(), size_t(kHidden * columns)) << at << name;
      const bool wide = columns > kHidden;
      const int64_t count = std::min<int64_t>(columns, kHidden), length = std::max<int64_t>(columns, kHidden);
      for (int64_t i = 0; i < count; ++i)
        for (int64_t j = 0; j <= i; ++j) {
          double product = 0;
          for (int64_t k = 0; k < length; ++k)
            product +=
                wide ? m[i * columns + k] * m[j * columns + k] : m[k * columns + i] * m[k * columns + j];
          EXPECT_NEAR(product, i == j ? 0.01 : 0, 1e-7) << at << name << " " << i << " " << j;
        }
    }
    for (const auto& [name, bound] : {std::pair{"r_proj", 0.5}, {"v_proj", 0.5}, {"k_proj", 0.05}}) {
      double squares = 0;
      for (const double x : values[at + name + ".weight"]) squares += x * x;
      const double variance = squares / (kHidden * kHidden), uniform = bound * bound / kHidden / 3;
      EXPECT_NEAR(variance / uniform, 1, 0.1) << at << name;
    }
  }
}

// The weights of a model in memory.
class ModelSource : public WeightSource {
 public:
  explicit ModelSource(Decoder& model) : model_(model) {}
  const ModelConfig& config() const override { return model_.config(); }
  std::string where() const override { return "source"; }
  bool contains(const std::string& name) const override { return find(name) != nullptr; }
  Shape shape(const std::string& name) const override { return find(name)->global_shape; }
  void read_shard(const Parameter& p) override { p.var.value().copy_from(find(p.name)->var.value()); }
  Tensor rows(const std::string& name, int64_t begin, int64_t end) override {
    return find(name)->var.value().rows(begin, end);
  }
  std::string missing;  // a tensor that its configuration has and it lacks

 private:
  const Parameter* find(const std::string& name) const {
    if (name == missing) return nullptr;
    for (const Parameter* p : model_.parameters())
      if (p->name == name) return p;
    return nullptr;
  }
  Decoder& model_;
};

TEST(Rwkv7, TakesAllButTheTimeMixingFromQwen2) {
  Decoder teacher(small("attention"), {}, DType::f32);
  teacher.initialize_random(1);
  ModelSource source(teacher);
  Decoder student(small("rwkv7", all_parts()), {}, DType::f32),
      fresh(small("rwkv7", all_parts()), {}, DType::f32);
  load_weights(student, source, 7);
  fresh.initialize_random(7);
  auto found = values_of(student), taken = values_of(teacher), started = values_of(fresh);
  int copied = 0;
  for (const auto& [name, values] : found) {
    const bool time_mixing = name.find(".self_attn.") != std::string::npos;
    EXPECT_EQ(values, (time_mixing ? started : taken).at(name)) << name;
    copied += !time_mixing;
  }
  EXPECT_EQ(copied, 1 + 5 * kLayers + 1);  // embedding, two norms and three matrices a layer, norm
}

// State tuning: what a trained model lacks and the option adds is zero, and all else is the trained model's.
TEST(Rwkv7, AnInitialStateIsAddedToATrainedModel) {
  for (const char* mixer : {"rwkv7", "wuneng"}) {
    Decoder trained(small(mixer), {}, DType::f32);
    trained.initialize_random(1);
    ModelSource source(trained);
    const auto tuned = [&](const ModelConfig& c) {
      Decoder model(c, {}, DType::f32);
      for (const Parameter* p : model.parameters())
        std::fill_n(p->var.value().f32(), p->var.value().numel(), 9.0f);
      load_weights(model, source, 7);
      return values_of(model);
    };
    const ModelConfig with = small(mixer, {{"learn_initial_state", true}});
    auto before = values_of(trained);
    int added = 0;
    for (const auto& [name, values] : tuned(with)) {
      if (name.ends_with("initial_state")) {
        EXPECT_THAT(values, testing::Each(0)) << name;
        ++added;
      } else {
        EXPECT_EQ(values, before.at(name)) << name;
      }
    }
    EXPECT_EQ(added, kLayers);
    // What the source should have and lacks is an error still, an initial state too.
    source.missing = "model.layers.1.mlp.up_proj.weight";
    EXPECT_THAT(error_of([&] { tuned(with); }),
                HasSubstr("source: tensor " + source.missing + " is missing"));
    Decoder tuned_before(with, {}, DType::f32);
    ModelSource incomplete(tuned_before);
    for (const Parameter* p : tuned_before.parameters())
      if (p->name.ends_with("initial_state")) incomplete.missing = p->name;
    Decoder model(with, {}, DType::f32);
    EXPECT_THAT(error_of([&] { load_weights(model, incomplete, 7); }),
                HasSubstr("tensor " + incomplete.missing + " is missing"));
  }
}

TEST(Rwkv7, OlderConfigurationsLearnNoInitialState) {
  for (const char* mixer : {"rwkv7", "wuneng"}) {
    nlohmann::json json = small(mixer).to_json();
    json[mixer].erase("learn_initial_state");
    EXPECT_FALSE(ModelConfig::from_json(json, "test").options_of(mixer).flag("learn_initial_state"));
  }
}

TEST(Rwkv7, HasHeadsOfItsOwn) {
  const auto error = [](int64_t head_dim) {
    return error_of([=] { small("rwkv7", {{"rwkv_head_dim", head_dim}}); });
  };
  EXPECT_EQ(error(16), "no error");
  for (const int64_t head_dim : {3, 10, 96})
    EXPECT_THAT(
        error(head_dim),
        HasSubstr(fmt::format("rwkv_head_dim = {}: expected an even divisor of hidden_size", head_dim)));
  ModelConfig c = small("attention");
  const auto default_head_dim = [&](int64_t hidden_size) {
    c.hidden_size = hidden_size;
    c.set_mixer("rwkv7");
    return c.options_of("rwkv7").integer("rwkv_head_dim");
  };
  EXPECT_EQ(default_head_dim(3584), 64);
  EXPECT_EQ(default_head_dim(36), 12);  // head_dim: 64 does not divide it
}

// Uneven: 6 heads on 4 ranks. What the first layer leaves is of the rank's own heads.
TEST(Rwkv7, SplitsItsHeads) {
  const ModelConfig c = small("rwkv7");
  std::vector<int64_t> widths;
  for (int rank = 0; rank < 4; ++rank) {
    const std::vector<CarriedTensor> carried = mixer_type("rwkv7", "test").carried(c, 4, rank);
    ASSERT_EQ(carried.size(), 1u);
    widths.push_back(carried[0].width);
  }
  EXPECT_THAT(widths, testing::UnorderedElementsAre(8, 8, 16, 16));
}

// Counted by hand from docs/model.md: r, k, v, o; six mu, k_k, k_a, r_k; w, a, v and g with their low ranks
// of 64, 64, 32 and 128, three of them with a bias; in the first layer no v.
TEST(Rwkv7, HasTheParametersOfTheEquations) {
  for (const auto& [d, layers, ffn] : {std::array<int64_t, 3>{896, 24, 4864}, {3584, 28, 18944}}) {
    ModelConfig c{.hidden_size = d,
                  .intermediate_size = ffn,
                  .num_layers = layers,
                  .num_heads = d / 64,
                  .num_kv_heads = 2,
                  .head_dim = 64,
                  .vocab_size = 1000};
    c.set_mixer("attention");
    const int64_t first_values = d + 2 * d * 32,
                  mixer = 4 * d * d + 6 * d + 3 * d + 3 * d + 2 * d * (64 + 64 + 32 + 128),
                  all = layers * (mixer + 3 * d * ffn + 2 * d) - first_values + d + 1000 * d;
    EXPECT_EQ(rwkv7_student_parameter_count(c), all) << d;
    c.set_mixer("rwkv7");
    EXPECT_EQ(parameter_count(c), all - layers * (d + 2 * d * 128)) << d;  // without gate: ARWKV
  }
}

}  // namespace
}  // namespace wuneng::rwkv7_test
