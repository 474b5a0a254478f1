// `wuneng convert`: checkpoint -> Hugging Face directory; Hugging Face directory -> another, or a student.
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "data/tokenizer/text_codec.h"
#include "launch/commands/commands.h"
#include "launch/commands/model_export.h"
#include "launch/train/checkpoint_meta.h"
#include "model/export/transformers_files.h"
#include "model/hugging_face.h"
#include "model/parameter_count.h"
#include "runtime/file.h"
#include "runtime/input_file.h"
#include "runtime/safetensors.h"

namespace wuneng {
namespace {

namespace fs = std::filesystem;

// The files beside the weights: name -> content.
using SmallFiles = std::map<std::string, std::string>;

// Of the model in `model` (empty: a checkpoint) and the tokenizer in `tokenizer` (empty: none).
SmallFiles read_small_files(const std::string& model, const std::string& tokenizer) {
  SmallFiles files = tokenizer.empty() ? SmallFiles() : read_tokenizer_files_of(tokenizer);
  for (const std::string& directory : {model, tokenizer})
    if (const std::string path = directory + "/generation_config.json";
        !directory.empty() && fs::exists(path)) {
      files["generation_config.json"] = read_input_file(path, "a generation_config.json");
      break;
    }
  return files;
}

// The tokens that begin, end and fill texts go with the tokenizer, where the model itself has none.
void take_token_ids(ModelConfig& config, const std::string& tokenizer) {
  const std::string path = tokenizer + "/config.json";
  if (tokenizer.empty() || !fs::exists(path)) return;
  const auto json = nlohmann::json::parse(read_input_file(path, "a config.json"), nullptr, false);
  require(json.is_object(), "{}: expected a JSON object", path);
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"})
    if (json.contains(key)) config.carried.emplace(key, json[key].dump());
}

void write_model(const ConvertOptions& o, const ModelConfig& config, const SmallFiles& small, DType dtype,
                 const std::function<Tensor(const SafetensorsItem&)>& content) {
  ModelExport out(o.to);
  std::vector<SafetensorsItem> items;
  for (const auto& [name, shape] : parameter_shapes(config)) items.push_back({name, dtype, shape});
  write_safetensors(out.folder(), items, o.max_file_bytes, content);
  for (const auto& [name, text] : small) write_file_durably(out.folder() + "/" + name, text);
  nlohmann::json json = config.to_json();
  json["torch_dtype"] = dtype == DType::bf16 ? "bfloat16" : "float32";
  if (needs_transformers_files(config)) {
    json["auto_map"] = auto_map(config);
    for (const auto& [name, text] : transformers_files())
      write_file_durably(out.folder() + "/" + name, std::string(text));
  }
  write_file_durably(out.folder() + "/config.json", json.dump(2) + "\n");
  out.commit();
  std::printf("wrote %s: %zu tensors, %lld parameters\n", o.to.c_str(), items.size(),
              static_cast<long long>(parameter_count(config)));
}

void convert_checkpoint(const ConvertOptions& o, DType dtype) {
  require(o.preset.empty(),
          "convert: --preset makes a student from a Hugging Face directory, but {} is a checkpoint", o.from);
  CheckpointReader reader(newest_whole_checkpoint(o.from));
  const CheckpointMeta meta = CheckpointMeta::read(reader);
  ModelConfig config = meta.model_config(reader.directory());
  const std::string prefix = "model/";
  for (const auto& [name, shape] : parameter_shapes(config)) {
    require(reader.contains(prefix + name), "{}: tensor {}{} is missing", reader.directory(), prefix, name);
    require(reader.shape(prefix + name) == shape, "{}: tensor {}{}: expected shape {}, found {}",
            reader.directory(), prefix, name, to_string(shape), to_string(reader.shape(prefix + name)));
  }
  std::string tokenizer = o.tokenizer.empty() ? meta.tokenizer_from : o.tokenizer;
  if (!tokenizer.empty() && !fs::is_directory(tokenizer)) {
    std::fprintf(stderr,
                 "wuneng: %s, whose tokenizer the model goes with, is not there: %s will have none "
                 "(--tokenizer names another)\n",
                 tokenizer.c_str(), o.to.c_str());
    tokenizer.clear();
  }
  take_token_ids(config, tokenizer);
  write_model(o, config, read_small_files("", tokenizer), dtype,
              [&](const SafetensorsItem& item) { return reader.read(prefix + item.name).to(dtype); });
}

void convert_model(const ConvertOptions& o, DType dtype) {
  const auto weights = open_hugging_face(o.from);
  for (const std::string& note : weights->notes()) std::fprintf(stderr, "wuneng: %s\n", note.c_str());
  ModelConfig config = weights->config();
  if (!o.preset.empty()) {
    require(config.is_plain(),
            "convert: {}: --preset makes a student from a model of mixer attention, found {}", o.from,
            fmt::join(config.mixers(), ", "));
    config.set_mixer("wuneng", o.preset);
    config.check(o.from + " as a student");
  }
  const std::string& tokenizer = o.tokenizer.empty() ? o.from : o.tokenizer;
  take_token_ids(config, tokenizer);
  const SmallFiles small = read_small_files(o.from, tokenizer);
  std::unique_ptr<Decoder> model;
  std::map<std::string, Tensor> tensors;
  write_model(o, config, small, dtype, [&](const SafetensorsItem& item) {
    if (!model) {  // once the output is known to be one
      model = std::make_unique<Decoder>(config, Placement{}, dtype);
      load_weights(*model, *weights, o.seed);
      for (const Parameter* p : model->parameters()) tensors[p->name] = p->var.value();
    }
    return tensors.at(item.name);
  });
}

// The output is neither the input nor inside checkpoints.
void require_apart(const ConvertOptions& o) {
  const fs::path to = fs::weakly_canonical(o.to);
  require(fs::weakly_canonical(o.from) != to,
          "convert: {}: expected another directory to write than the one to read", o.to);
  for (fs::path at = to; at.has_relative_path(); at = at.parent_path())
    require(access(at.c_str(), R_OK | X_OK) != 0 || !has_checkpoint(at.string()),
            "convert: {}: expected a directory outside of checkpoints, found it in {}", o.to, at.string());
}

}  // namespace

void convert(const ConvertOptions& o) {
  require(o.tokenizer.empty() || TextCodec::has_tokenizer(o.tokenizer),
          "convert: --tokenizer {}: expected a directory with tokenizer.json or vocab.json, found neither",
          o.tokenizer);
  const DType dtype = parse_dtype(o.dtype);
  require_apart(o);
  has_checkpoint(o.from) ? convert_checkpoint(o, dtype) : convert_model(o, dtype);
}

}  // namespace wuneng
