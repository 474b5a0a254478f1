#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "data/tokenizer/text_codec.h"
#include "launch/commands/commands.h"
#include "launch/train/checkpoint_meta.h"
#include "model/hugging_face.h"
#include "model/parameter_count.h"
#include "runtime/file.h"
#include "runtime/safetensors.h"

namespace wuneng {
namespace {

void write_model(const ConvertOptions& o, const ModelConfig& config,
                 const std::vector<SafetensorsItem>& items,
                 const std::function<Tensor(const SafetensorsItem&)>& content) {
  write_safetensors(o.to, items, o.max_file_bytes, content);
  nlohmann::json json = config.to_json();
  json["torch_dtype"] = o.dtype == "bf16" ? "bfloat16" : "float32";
  write_file_durably(o.to + "/config.json", json.dump(2) + "\n");
  std::printf("wrote %s: %zu tensors, %lld parameters\n", o.to.c_str(), items.size(),
              static_cast<long long>(parameter_count(config)));
}

// The tokenizer goes with the model, where `from` has one.
void copy_tokenizer(const std::string& from, const std::string& to) {
  namespace fs = std::filesystem;
  if (from.empty() || (fs::exists(from) && fs::equivalent(from, to))) return;
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
                           "added_tokens.json", "special_tokens_map.json", "chat_template.jinja"})
    if (fs::exists(from + "/" + name))
      fs::copy_file(from + "/" + name, to + "/" + name, fs::copy_options::overwrite_existing);
}

}  // namespace

void convert(const ConvertOptions& o) {
  require(o.tokenizer.empty() || TextCodec::has_tokenizer(o.tokenizer),
          "convert: --tokenizer {}: expected a directory with tokenizer.json or vocab.json, found neither",
          o.tokenizer);
  const DType dtype = parse_dtype(o.dtype);
  if (has_checkpoint(o.from)) {
    require(o.preset.empty(),
            "convert: --preset makes a student from a Hugging Face directory, but {} is a checkpoint",
            o.from);
    CheckpointReader reader(newest_whole_checkpoint(o.from));
    std::vector<SafetensorsItem> items;
    const std::string prefix = "model/";
    for (const std::string& name : reader.names())
      if (name.rfind(prefix, 0) == 0)
        items.push_back({name.substr(prefix.size()), dtype, reader.shape(name)});
    const CheckpointMeta meta = CheckpointMeta::read(reader);
    write_model(o, meta.model_config(reader.directory()), items,
                [&](const SafetensorsItem& item) { return reader.read(prefix + item.name).to(dtype); });
    return copy_tokenizer(o.tokenizer.empty() ? meta.tokenizer_from : o.tokenizer, o.to);
  }
  ModelConfig config = ModelConfig::from_directory(o.from);
  if (!o.preset.empty()) {
    require(config.is_qwen2(), "convert: {}: --preset makes a student from a model of mixer qwen2, found {}",
            o.from, fmt::join(config.mixers(), ", "));
    config.set_mixer("wuneng", o.preset);
    config.check(o.from + " as a student");
  }
  Decoder model(config, Placement{}, dtype);
  load_weights(model, *open_hugging_face(o.from), o.seed);
  const Parameters parameters = model.parameters();
  std::vector<SafetensorsItem> items;
  for (const Parameter* p : parameters) items.push_back({p->name, dtype, p->global_shape});
  write_model(o, config, items, [&](const SafetensorsItem& item) {
    for (const Parameter* p : parameters)
      if (p->name == item.name) return p->var.value();
    fail("convert: no tensor {}", item.name);
  });
  copy_tokenizer(o.tokenizer.empty() ? o.from : o.tokenizer, o.to);
}

}  // namespace wuneng
