// config.json as people's models have it: what means the same is read, what means something else is refused
// by name.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "model/config.h"
#include "runtime/file.h"
#include "tests/unit/golden.h"
#include "tests/unit/scratch_dir.h"

namespace wuneng::config_json_test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

json plain() {
  return json::parse(R"({
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 16, "intermediate_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256,
    "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "tie_word_embeddings": true, "hidden_act": "silu",
    "use_sliding_window": false, "sliding_window": 32768, "max_window_layers": 2,
    "max_position_embeddings": 131072,
    "bos_token_id": 151643, "eos_token_id": [151645, 151643], "torch_dtype": "bfloat16"})");
}

// Of plain() with the keys of `change`.
json changed(const char* change) {
  json config = plain();
  config.merge_patch(json::parse(change));  // null removes a key
  return config;
}

std::string refusal(const json& config) {
  try {
    ModelConfig::from_json(config, "m/config.json");
  } catch (const Error& e) {
    return e.what();
  }
  return "read";
}
std::string refusal(const char* change) { return refusal(changed(change)); }

TEST(ConfigJson, ReadsRotaryEmbeddingsThatAreNotScaled) {
  for (const char* change :
       {R"({"rope_scaling": {}})", R"({"rope_scaling": {"type": "default"}})",
        R"({"rope_scaling": {"rope_type": "default"}})",
        R"({"rope_scaling": {"type": "default", "rope_type": "default"}})",
        R"({"rope_scaling": {"type": "linear", "factor": 1.0}})",
        R"({"rope_scaling": {"rope_type": "yarn", "factor": 1, "original_max_position_embeddings": 32768}})",
        R"({"rope_type": "default"})", R"({"rope_theta": null, "rope_parameters": {"rope_theta": 1e6}})",
        R"({"rope_parameters": {"rope_theta": 1000000, "rope_type": "default"}})",
        R"({"partial_rotary_factor": 1.0})"}) {
    ASSERT_EQ(refusal(change), "read") << change;
    EXPECT_EQ(ModelConfig::from_json(changed(change), "x").rope_theta, 1e6f) << change;
  }
  json null = plain();
  null["rope_scaling"] = nullptr, null["rope_parameters"] = nullptr, null["head_dim"] = nullptr;
  EXPECT_EQ(refusal(null), "read");
  EXPECT_EQ(ModelConfig::from_json(changed(R"({"rope_theta": null})"), "x").rope_theta, 1e4f);
}

TEST(ConfigJson, RefusesOtherRotaryEmbeddings) {
  for (const char* change :
       {R"({"rope_scaling": {"type": "linear"}})",
        R"({"rope_scaling": {"type": "linear", "factor": 0.5}})",
        R"({"rope_scaling": {"rope_type": "dynamic", "factor": 1.0}})",
        R"({"rope_scaling": {"type": "yarn"}})",
        R"({"rope_scaling": {"type": "yarn", "factor": 0.5}})",
        R"({"rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": 1}})",
        R"({"rope_scaling": {"type": "yarn", "factor": 4.0, "finetuned": true}})",
        R"({"rope_scaling": {"type": "yarn", "factor": 4.0}, "max_position_embeddings": 0})",
        R"({"rope_scaling": {"type": "yarn", "factor": 4.0}, "rope_theta": 1})",
        R"({"rope_parameters": {"rope_type": "llama3", "factor": 8}})",
        R"({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
                                                                "high_freq_factor": 1}})",
        R"({"rope_scaling": {"rope_type": "longrope", "long_factor": [1], "short_factor": [1]}})",
        R"({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}})",
        R"({"rope_scaling": {"type": "default", "mrope_section": [16, 24, 24]}})",
        R"({"rope_scaling": {"factor": 4}})",
        R"({"rope_scaling": {"type": 3}})",
        R"({"rope_scaling": {"type": "linear", "factor": "1"}})",
        R"({"rope_scaling": {"type": "default", "rope_type": "yarn"}})",
        R"({"rope_scaling": "yarn"})",
        R"({"rope_type": "yarn"})",
        R"({"partial_rotary_factor": 0.5})",
        R"({"rope_parameters": {"full_attention": {"rope_type": "default"}}})",
        R"({"rope_parameters": {"rope_theta": 1e4}})",
        R"({"rope_theta": "1e6"})",
        R"({"rope_theta": 0})",
        R"({"rope_theta": 1e39})"})
    EXPECT_THAT(refusal(change), HasSubstr("m/config.json: ")) << change;
  EXPECT_THAT(refusal(R"({"rope_scaling": {"type": "dynamic", "factor": 4.0}})"),
              HasSubstr("rope_type = \"dynamic\": scaled rotary embedding of this type is not supported: "
                        "expected one of \"default\", \"linear\", \"yarn\", \"llama3\""));
}

// transformers' own numbers (tests/reference/make_rope_golden.py).
TEST(ConfigJson, ScaledRotaryEmbeddingsAgreeWithTransformers) {
  const json cases = json::parse(read_file(golden("rope.json")));
  EXPECT_EQ(cases.size(), 10u);
  for (const json& c : cases) {
    SCOPED_TRACE(c.at("config").dump());
    const ModelConfig config = ModelConfig::from_json(changed(c.at("config").dump().c_str()), "x");
    ASSERT_FALSE(std::holds_alternative<PlainRope>(config.rope_scaling));
    EXPECT_NEAR(rope_attention_factor(config.rope_scaling), c.at("attention_factor").get<double>(), 1e-7);
    const auto found = rope_frequencies(config.rope_theta, config.rope_scaling, config.head_dim);
    const auto expected = c.at("inverse_frequencies").get<std::vector<double>>();
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-6 * expected[i]) << i;
    // What is written reads as the same.
    const ModelConfig again = ModelConfig::from_json(config.to_json(), "x");
    EXPECT_EQ(rope_frequencies(again.rope_theta, again.rope_scaling, again.head_dim), found);
    EXPECT_EQ(rope_attention_factor(again.rope_scaling), rope_attention_factor(config.rope_scaling));
  }
}

TEST(ConfigJson, RefusesSizesThatAreNone) {
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                          "num_key_value_heads", "head_dim", "vocab_size"}) {
    for (const char* value : {"0", "-2", "2.9", "2.0", "1e18", "1000000000000000000", "12345678901234567890",
                              "18446744073709551618", "\"2\"", "true", "[2]"}) {
      json config = plain();
      config[key] = json::parse(value);
      EXPECT_THAT(refusal(config), testing::AllOf(HasSubstr(key), HasSubstr("expected"))) << value;
    }
    if (std::string(key) == "head_dim" || std::string(key) == "num_key_value_heads") continue;
    json config = plain();
    config.erase(key);
    EXPECT_THAT(refusal(config), HasSubstr(fmt::format("key '{}' is missing", key)));
  }
  EXPECT_THAT(refusal(R"({"hidden_size": 1000000000})"),
              HasSubstr("hidden_size = 1000000000: expected 1 to 1048576"));
  EXPECT_THAT(refusal(R"({"hidden_size": 18})"),
              HasSubstr("key 'head_dim': expected a number, since hidden_size = 18"));
  EXPECT_EQ(refusal(R"({"hidden_size": 18, "head_dim": 4})"), "read");
  EXPECT_THAT(refusal(R"({"num_key_value_heads": 3})"),
              HasSubstr("4 heads are not a multiple of 3 kv_heads"));
  EXPECT_THAT(refusal(R"({"head_dim": 5})"), HasSubstr("head_dim 5 is odd"));
  for (const char* eps : {"-1e-6", "2", "\"1e-6\"", "1e39"}) {
    json config = plain();
    config["rms_norm_eps"] = json::parse(eps);
    EXPECT_THAT(refusal(config), HasSubstr("rms_norm_eps")) << eps;
  }
}

TEST(ConfigJson, RefusesModelsThatComputeSomethingElse) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"quantization_config": {"quant_method": "gptq", "bits": 4}})", "\"gptq\""},
      {R"({"quantization_config": {"quant_method": "fp8"}})", "quantised"},
      {R"({"compression_config": {"x": 1}})", "compression_config"},
      {R"({"layer_types": ["full_attention", "sliding_attention"]})",
       "layer 1 has sliding_attention: expected a sliding window, found none"},
      {R"({"layer_types": ["full_attention"]})",
       "layer_types: expected one for each of num_hidden_layers = 2"},
      {R"({"layer_types": ["full_attention", "chunked_attention"]})", "found chunked_attention"},
      {R"({"use_sliding_window": true, "sliding_window": 0})", "sliding_window = 0: expected 1 to"},
      {R"({"is_causal": false})", "is_causal"},
      {R"({"hidden_act": "gelu"})", "hidden_act = \"gelu\""},
      {R"({"rope_interleaved": true})", "rope_interleaved = true"},
      // Other tests of the program register a mixer: the list may be longer.
      {R"({"model_type": "qwen3_moe"})",
       "model_type = \"qwen3_moe\" is not supported: expected one of qwen2, "
       "qwen3, llama, mistral, wuneng, rwkv7"},
      {R"({"model_type": "attention"})", "model_type = \"attention\" is not supported"},
      {R"({"model_type": "llama", "attention_bias": true})", "attention_bias = true is not supported"},
      {R"({"model_type": "llama", "mlp_bias": true})", "mlp_bias = true is not supported"},
      {R"({"model_type": "llama"})", "sliding_window = 32768: expected none: llama has no sliding window"},
      {R"({"model_type": "qwen3", "attention_bias": true})", "attention_bias = true is not supported"},
      {R"({"model_type": "mistral", "sliding_window": 9, "layer_types": ["full_attention",
           "sliding_attention"]})",
       "mistral has one window for all"},
      {R"({"model_type": "rwkv7", "qk_norm": true})", "not both"},
      {R"({"model_type": null, "architectures": ["Qwen2MoeForCausalLM"]})", "'model_type' is missing"},
      {R"({"model_type": "qwen2_5_vl", "text_config": {"hidden_size": 16}})",
       "several parts (model_type \"qwen2_5_vl\")"},
      {R"({"tie_word_embeddings": "true"})", "expected true or false"}};
  for (const auto& [change, expected] : cases) EXPECT_THAT(refusal(change), HasSubstr(expected)) << change;
  EXPECT_EQ(refusal(R"({"layer_types": ["full_attention", "full_attention"], "hidden_act": "swish"})"),
            "read");
  EXPECT_EQ(refusal(R"({"model_type": null})"), "read");  // the architecture says it
}

// Of plain(), as another family with its keys.
ModelConfig read_as(const char* family, const char* change) {
  json config = changed(change);
  config["model_type"] = family;
  for (const char* key : {"use_sliding_window", "max_window_layers"})
    if (!json::parse(change).contains(key)) config.erase(key);
  if (!json::parse(change).contains("sliding_window")) config.erase("sliding_window");
  return ModelConfig::from_json(config, "x");
}

TEST(ConfigJson, FamiliesHaveWhatTransformersGivesThem) {
  struct Expected {
    const char *family, *architecture;
    bool bias, norm;
    int64_t head_dim, kv_heads, window;
  };
  // Without head_dim and num_key_value_heads; 64 heads, a multiple of all defaults.
  for (const Expected& e : {Expected{"qwen2", "Qwen2ForCausalLM", true, false, 2, 32, 0},
                            {"qwen3", "Qwen3ForCausalLM", false, true, 128, 32, 0},
                            {"llama", "LlamaForCausalLM", false, false, 2, 64, 0},
                            {"mistral", "MistralForCausalLM", false, false, 2, 8, 4096}}) {
    SCOPED_TRACE(e.family);
    const ModelConfig c =
        read_as(e.family, R"({"num_attention_heads": 64, "hidden_size": 128, "num_key_value_heads": null})");
    EXPECT_EQ(c.architecture(), e.architecture);
    EXPECT_EQ(c.qkv_bias, e.bias);
    EXPECT_EQ(c.qk_norm, e.norm);
    EXPECT_EQ(c.head_dim, e.head_dim);
    EXPECT_EQ(c.num_kv_heads, e.kv_heads);
    EXPECT_EQ(c.window_of(0), e.window);
    EXPECT_TRUE(c.is_plain());
    const json written = c.to_json();
    EXPECT_EQ(written.at("model_type"), e.family);
    EXPECT_EQ(written.at("architectures"), json({e.architecture}));
    EXPECT_EQ(ModelConfig::from_json(written, "x").to_json(), written);
    // A student has the same attention, and says so.
    ModelConfig student = c;
    student.set_mixer("wuneng", "lean");
    const json of_student = student.to_json();
    EXPECT_EQ(of_student.at("qkv_bias"), e.bias);
    EXPECT_EQ(of_student.at("qk_norm"), e.norm);
    const ModelConfig again = ModelConfig::from_json(of_student, "x");
    EXPECT_EQ(again.to_json(), of_student);
    EXPECT_EQ(again.window_of(1), e.window);
  }
  json old = plain();  // its architecture says the family; null: as many as heads
  old.erase("model_type"), old["architectures"] = {"MistralForCausalLM"};
  old["num_key_value_heads"] = nullptr, old["sliding_window"] = nullptr;
  const ModelConfig c = ModelConfig::from_json(old, "x");
  EXPECT_EQ(c.family, "mistral");
  EXPECT_EQ(c.num_kv_heads, 4);
  EXPECT_EQ(c.window_of(0), 0);
  EXPECT_TRUE(c.to_json().at("sliding_window").is_null());  // without the key it would be 4096
}

TEST(ConfigJson, SlidingWindowsAreThoseOfTheFamily) {
  const auto windows = [](const ModelConfig& c) {
    return std::vector<int64_t>{c.window_of(0), c.window_of(1)};
  };
  using testing::ElementsAre;
  const char* used = R"({"use_sliding_window": true, "sliding_window": 7, "max_window_layers": 1})";
  EXPECT_THAT(windows(read_as("qwen2", used)), ElementsAre(0, 7));
  EXPECT_THAT(windows(read_as("qwen3", used)), ElementsAre(0, 7));
  EXPECT_THAT(windows(read_as("qwen3", R"({"use_sliding_window": true, "sliding_window": 7})")),
              ElementsAre(0, 0));  // max_window_layers is 28
  EXPECT_THAT(windows(read_as("qwen2", R"({"use_sliding_window": false, "sliding_window": 7})")),
              ElementsAre(0, 0));
  EXPECT_THAT(windows(read_as("qwen2", R"({"use_sliding_window": true, "sliding_window": 7,
                                           "max_window_layers": 0,
                                           "layer_types": ["sliding_attention", "full_attention"]})")),
              ElementsAre(7, 0));
  EXPECT_THAT(windows(read_as("mistral", R"({"sliding_window": 7})")), ElementsAre(7, 7));
  for (const char* family : {"qwen2", "qwen3"}) {
    const json written = read_as(family, used).to_json();
    EXPECT_EQ(written.at("layer_types"), json({"full_attention", "sliding_attention"}));
    EXPECT_EQ(written.at("max_window_layers"), 1);
    EXPECT_EQ(ModelConfig::from_json(written, "x").to_json(), written);
  }
}

TEST(ConfigJson, KeepsWhatOtherProgramsRead) {
  const ModelConfig c = ModelConfig::from_json(
      changed(
          R"({"pad_token_id": 151643, "rope_scaling": {"type": "default"}, "auto_map": {"AutoModel": "x.Y"},
                  "attention_dropout": 0.1, "name": "\"quoted\\"})"),
      "x");
  const json written = c.to_json();
  for (const char* key : {"eos_token_id", "bos_token_id", "max_position_embeddings", "sliding_window"})
    EXPECT_EQ(written.at(key), plain().at(key));
  EXPECT_EQ(written.at("attention_dropout"), 0.1);
  EXPECT_EQ(written.at("name"), "\"quoted\\");
  for (const char* key : {"rope_scaling", "auto_map", "torch_dtype"})
    EXPECT_FALSE(written.contains(key)) << key;
  EXPECT_EQ(ModelConfig::from_json(written, "x").to_json(), written);
  ModelConfig student = c;
  student.set_mixer("wuneng");
  EXPECT_EQ(student.to_json().at("eos_token_id"), plain().at("eos_token_id"));
  EXPECT_EQ(student.to_json().at("model_type"), "wuneng");
}

class ConfigFile : public ScratchTest {
 protected:
  std::string refusal_of(const std::string& content) const {
    write("config.json", content);
    return refusal_of_directory();
  }
  std::string refusal_of_directory() const {
    try {
      ModelConfig::from_directory(root_.string());
    } catch (const Error& e) {
      return e.what();
    }
    return "read";
  }
};

TEST_F(ConfigFile, IsOneJsonObject) {
  EXPECT_EQ(refusal_of(plain().dump()), "read");
  EXPECT_EQ(refusal_of("\xef\xbb\xbf" + plain().dump()), "read");  // a byte order mark
  EXPECT_THAT(refusal_of(""), HasSubstr("found an empty file"));
  EXPECT_THAT(refusal_of("[]"), HasSubstr("expected a JSON object"));
  EXPECT_THAT(refusal_of(std::string(100000, '[')), HasSubstr("nested at most"));
  for (const char* bad :
       {"{", "{\"rope_theta\": NaN}", "{\"rope_theta\": 1e999}", "\xff\xfe{", "{\"a\": \"\xff\"}"})
    EXPECT_THAT(refusal_of(bad), HasSubstr("config.json: not JSON: ")) << bad;
  std::filesystem::remove(path("config.json"));
  EXPECT_THAT(refusal_of_directory(), HasSubstr("config.json: cannot be read"));
  std::filesystem::create_directory(path("config.json"));
  EXPECT_THAT(refusal_of_directory(), HasSubstr("found a directory"));
  std::filesystem::remove(path("config.json"));
  ASSERT_EQ(::mkfifo(path("config.json").c_str(), 0600), 0);
  EXPECT_THAT(refusal_of_directory(), HasSubstr("found a pipe"));
}

}  // namespace
}  // namespace wuneng::config_json_test
