// Weights as people's models have them: read where they are the model's, refused by name where they are not.
#include "model/hugging_face.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "model/parameter_count.h"
#include "tests/unit/scratch_dir.h"

namespace wuneng::hugging_face_test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

struct Stored {
  std::string type;
  Shape shape;
  std::string bytes;
};
using StoredTensors = std::map<std::string, Stored>;

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

Stored f32(const Shape& shape, float first = 0) {
  std::vector<float> values(element_count(shape));
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(first + float(i));
  return {"F32", shape, bytes_of(values)};
}

class HuggingFace : public ScratchTest {
 protected:
  // A model of two layers and a tied embedding.
  static ModelConfig config() {
    return {.hidden_size = 4,
            .intermediate_size = 6,
            .num_layers = 2,
            .num_heads = 2,
            .num_kv_heads = 1,
            .head_dim = 2,
            .vocab_size = 8};
  }
  static StoredTensors weights(const ModelConfig& c = config()) {
    StoredTensors out;
    for (const auto& [name, shape] : parameter_shapes(c)) out[name] = f32(shape, float(out.size()));
    return out;
  }
  void write_file(const std::string& name, const StoredTensors& tensors) const {
    json header = json::object();
    std::string data;
    for (const auto& [key, t] : tensors) {
      header[key] = {{"dtype", t.type},
                     {"shape", t.shape},
                     {"data_offsets", {data.size(), data.size() + t.bytes.size()}}};
      data += t.bytes;
    }
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    const uint64_t length = text.size();
    write(name, std::string(reinterpret_cast<const char*>(&length), 8) + text + data);
  }
  void write_model(const StoredTensors& tensors, const json& config_json) const {
    write("config.json", config_json.dump());
    write_file("model.safetensors", tensors);
  }
  std::string refusal() const {
    try {
      const auto weights = open_hugging_face(root_.string());
      Decoder model(weights->config(), Placement{}, DType::f32);
      load_weights(model, *weights, 0);
    } catch (const Error& e) {
      return e.what();
    }
    return "read";
  }
  std::string refusal(const StoredTensors& tensors, const json& config_json = config().to_json()) const {
    write_model(tensors, config_json);
    return refusal();
  }
  // The parameter as the model has it.
  std::vector<float> loaded(const std::string& name) const {
    const auto weights = open_hugging_face(root_.string());
    Decoder model(weights->config(), Placement{}, DType::f32);
    load_weights(model, *weights, 0);
    for (const Parameter* p : model.parameters())
      if (p->name == name) return {p->var.value().f32(), p->var.value().f32() + p->var.value().numel()};
    return {};
  }
};

constexpr const char *kEmbedding = "model.embed_tokens.weight", *kHead = "lm_head.weight",
                     *kNorm = "model.norm.weight";

TEST_F(HuggingFace, TheMatrixOfATiedModelHasOneNameOrBoth) {
  StoredTensors tensors = weights();
  EXPECT_EQ(refusal(tensors), "read");
  const std::vector<float> embedding = loaded(kEmbedding);
  tensors[kHead] = tensors[kEmbedding];
  EXPECT_EQ(refusal(tensors), "read");
  tensors.erase(kEmbedding);
  EXPECT_EQ(refusal(tensors), "read");
  EXPECT_EQ(loaded(kEmbedding), embedding);
  tensors[kEmbedding] = f32({8, 4}, 100);
  EXPECT_THAT(refusal(tensors), HasSubstr("tie_word_embeddings = true, but lm_head.weight differs from"));
  tensors[kHead] = f32({4, 4});
  EXPECT_THAT(refusal(tensors), HasSubstr("tensor lm_head.weight: expected shape [8, 4], found [4, 4]"));
  ModelConfig untied = config();
  untied.tie_word_embeddings = false;
  EXPECT_THAT(refusal(weights(), untied.to_json()),
              HasSubstr("tensor lm_head.weight is missing: config.json has tie_word_embeddings = false"));
  EXPECT_EQ(refusal(weights(untied), untied.to_json()), "read");
}

TEST_F(HuggingFace, TensorsWithoutAPlaceAreRefusedOrNamed) {
  const auto with = [&](const char* name, const Stored& stored) {
    StoredTensors tensors = weights();
    tensors[name] = stored;
    return refusal(tensors);
  };
  EXPECT_EQ(with("model.layers.0.self_attn.rotary_emb.inv_freq", f32({1})), "read");
  for (const char* name : {"model.layers.1.self_attn.o_proj.bias", "model.layers.0.mlp.up_proj.bias",
                           "model.layers.0.self_attn.q_norm.weight", "score.weight", "extra",
                           "model.layers.99999999999999999999.x", "model.layers.x.weight", "model.layers.1"})
    EXPECT_THAT(with(name, f32({4})),
                HasSubstr(fmt::format("tensor {}: a model of this config.json has no such", name)));
  EXPECT_THAT(with("scale", {"F8_E4M3", {2}, "ab"}), HasSubstr("tensor scale: a model of"));
  EXPECT_THAT(with("model.layers.2.mlp.up_proj.weight", f32({6, 4})),
              HasSubstr("num_hidden_layers = 2, the files have 3 layers: tensor model.layers.2.mlp"));
  EXPECT_EQ(with("extra.mask", {"BOOL", {2, 2}, "abcd"}), "read");
  EXPECT_EQ(with("extra.count", {"U16", {1}, "ab"}), "read");
  EXPECT_THAT(open_hugging_face(root_.string())->notes(),
              testing::ElementsAre(HasSubstr("tensor extra.count (U16 [1]) is not used")));
}

// student.init = "mixer_random"
TEST_F(HuggingFace, MixersThatTheSourceDoesNotHaveMayStartAtRandom) {
  write_model(weights(), config().to_json());
  ModelConfig student = config();
  student.set_mixer("wuneng");
  student.layer_mixers = {{1, "attention"}};
  const auto source = open_hugging_face(root_.string());
  Decoder fresh(student, Placement{}, DType::f32), preserving(student, Placement{}, DType::f32),
      random_mixers(student, Placement{}, DType::f32);
  fresh.initialize_random(7);
  load_weights(preserving, *source, 7);
  load_weights(random_mixers, *source, 7, true);
  const auto equal = [](const Parameter* a, const Parameter* b) {
    return std::memcmp(a->var.value().raw(), b->var.value().raw(), a->var.value().bytes()) == 0;
  };
  int of_the_mixer = 0;
  for (size_t i = 0; i < fresh.parameters().size(); ++i) {
    const Parameter* found = random_mixers.parameters()[i];
    const bool mixer = found->name.starts_with("model.layers.0.self_attn.");
    EXPECT_TRUE(equal(found, (mixer ? fresh : preserving).parameters()[i])) << found->name;
    of_the_mixer += mixer && !equal(found, preserving.parameters()[i]);
  }
  EXPECT_GE(of_the_mixer, 4);  // q_proj, k_proj, v_proj, o_proj
}

TEST_F(HuggingFace, MissingTensorsSayWhy) {
  json config_json = config().to_json();
  config_json["num_hidden_layers"] = 3;
  EXPECT_THAT(refusal(weights(), config_json), HasSubstr("num_hidden_layers = 3, the files have 2 layers"));
  StoredTensors tensors = weights();
  tensors.erase(kNorm);
  EXPECT_THAT(refusal(tensors), HasSubstr("tensor model.norm.weight is missing; expected shape [4]"));
  tensors = weights();
  const std::string gate = "model.layers.0.mlp.gate_proj.";
  tensors.erase(gate + "weight");
  tensors[gate + "qweight"] = {"I32", {1, 6}, std::string(24, '\0')};
  EXPECT_THAT(refusal(tensors), HasSubstr("found model.layers.0.mlp.gate_proj.qweight (I32 [1, 6])"));
}

TEST_F(HuggingFace, ReadsWeightsOfEveryRealType) {
  StoredTensors tensors = weights();
  tensors[kNorm] = {"F64", {4}, bytes_of<double>({0.1, -2, 1e-300, 3e38})};
  EXPECT_EQ(refusal(tensors), "read");
  EXPECT_THAT(loaded(kNorm), testing::ElementsAre(0.1f, -2, 0, 3e38f));
  tensors[kNorm] = {"F16", {4}, bytes_of<uint16_t>({0x3c00, 0xc000, 0x7bff, 0x0001})};
  EXPECT_EQ(refusal(tensors), "read");
  EXPECT_THAT(loaded(kNorm), testing::ElementsAre(1, -2, 65504, 0x1p-24f));
  tensors[kNorm] = {"BF16", {4}, bytes_of<uint16_t>({0x3f80, 0xc000, 0x0000, 0x4000})};
  EXPECT_EQ(refusal(tensors), "read");
  EXPECT_THAT(loaded(kNorm), testing::ElementsAre(1, -2, 0, 2));
  for (const auto& [type, bytes] :
       {std::pair{"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I8", 1}, {"U8", 1}, {"BOOL", 1}, {"I32", 4}, {"I64", 8}}) {
    tensors[kNorm] = {type, {4}, std::string(4 * bytes, '\1')};
    EXPECT_THAT(
        refusal(tensors),
        HasSubstr(fmt::format("tensor model.norm.weight: expected F32, BF16, F16 or F64, found {}", type)));
  }
}

TEST_F(HuggingFace, RefusesWeightsThatAreNotFinite) {
  StoredTensors tensors = weights();
  const std::string expected =
      "tensor model.norm.weight: 1 of its elements are not finite as f32, the first of them number 2";
  for (const Stored& bad : {Stored{"F64", {4}, bytes_of<double>({1, 1, 1e300, 1})},
                            Stored{"F32", {4}, bytes_of<float>({1, 1, NAN, 1})},
                            Stored{"BF16", {4}, bytes_of<uint16_t>({0, 0, 0xff80, 0})}}) {
    tensors[kNorm] = bad;
    EXPECT_THAT(refusal(tensors), HasSubstr(expected)) << bad.type;
  }
}

TEST_F(HuggingFace, FilesAreAllThere) {
  const StoredTensors all = weights();
  write("config.json", config().to_json().dump());
  EXPECT_THAT(refusal(), HasSubstr("found neither"));
  write("pytorch_model.bin", "x");
  EXPECT_THAT(refusal(), HasSubstr("found pytorch_model.bin: save the model as safetensors"));
  write("model.safetensors", "version https://git-lfs.github.com/spec/v1\n");
  EXPECT_THAT(refusal(), HasSubstr("a pointer of Git LFS"));
  std::filesystem::remove(path("model.safetensors"));

  StoredTensors one, two = all;
  one.insert(two.extract(kNorm));
  write_file("model-00001-of-00002.safetensors", one);
  json index = {{"weight_map", json::object()}};
  for (const auto& [name, tensor] : all)
    index["weight_map"][name] = fmt::format("model-0000{}-of-00002.safetensors", name == kNorm ? 1 : 2);
  write("model.safetensors.index.json", index.dump());
  EXPECT_THAT(refusal(), HasSubstr("index.json: names model-00002-of-00002.safetensors, which is not there"));
  write_file("model-00002-of-00002.safetensors", two);
  EXPECT_EQ(refusal(), "read");
  index["weight_map"].erase("model.layers.0.mlp.up_proj.weight");  // which the files have
  write("model.safetensors.index.json", index.dump());
  EXPECT_EQ(refusal(), "read");
  write_file("model.safetensors", all);
  EXPECT_THAT(refusal(), HasSubstr("found both"));
}

}  // namespace
}  // namespace wuneng::hugging_face_test
