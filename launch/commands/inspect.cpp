#include <cstdio>
#include <nlohmann/json.hpp>

#include "launch/commands/commands.h"
#include "launch/train/checkpoint_meta.h"
#include "model/hugging_face.h"
#include "model/mixers/registry.h"
#include "model/parameter_count.h"
#include "runtime/safetensors.h"

namespace wuneng {
namespace {

void print_tensor(const std::string& name, std::string_view dtype, const Shape& shape) {
  std::printf("  %-72s %-5s %s\n", name.c_str(), std::string(dtype).c_str(), to_string(shape).c_str());
}

std::string type_of(const SafetensorsEntry& entry) {
  return entry.dtype ? std::string(to_string(*entry.dtype)) : entry.type;
}

// An option's value as a recipe spells it.
std::string toml(const OptionValue& value) {
  const auto* texts = std::get_if<std::vector<std::string>>(&value);
  return texts && !texts->empty() ? fmt::format("[\"{}\"]", fmt::join(*texts, "\", \""))
                                  : to_json(value).dump();
}

void print_mixers(const ModelConfig& config) {
  for (const std::string& name : config.mixers()) {
    const MixerType& type = mixer_type(name, "model");
    std::map<int64_t, std::string> layers;
    for (int64_t i = 0; i < config.num_layers; ++i)
      if (config.mixer_of(i) == name) layers[i] = name;
    std::vector<std::string> ranges = layer_mixers_to_text(layers);
    for (std::string& range : ranges) range.resize(range.find(':'));
    std::printf("mixer %s (%s), layers %s\n", name.c_str(), type.help.c_str(),
                fmt::format("{}", fmt::join(ranges, ", ")).c_str());
    for (const Option& option : type.options)
      std::printf("  %-44s # %s\n",
                  fmt::format("{} = {}", option.name, toml(config.options_of(name).at(option.name))).c_str(),
                  option.help.c_str());
  }
}

void print_model(const ModelConfig& config) {
  const int64_t total = parameter_count(config);
  const auto number = [](int64_t n) { return static_cast<long long>(n); };
  std::printf("%s, %lld layers, hidden %lld, %lld heads, %lld kv_heads, vocabulary %lld\n",
              fmt::format("{}", fmt::join(config.mixers(), " and ")).c_str(), number(config.num_layers),
              number(config.hidden_size), number(config.num_heads), number(config.num_kv_heads),
              number(config.vocab_size));
  std::printf("parameters %lld\n", number(total));
  if (!config.is_plain())
    for (const auto& [other, count] :
         {std::pair{"attention alone", attention_parameter_count(config)},
          std::pair{"the RWKV-7 student", rwkv7_student_parameter_count(config)}})
      std::printf("  %+.1f%% against %s of the same shape (%lld)\n",
                  100.0 * (double(total) / double(count) - 1), other, number(count));
  print_mixers(config);
}

}  // namespace

void inspect(const InspectOptions& o) {
  if (has_checkpoint(o.path)) {
    const CheckpointReader reader(newest_whole_checkpoint(o.path));
    const CheckpointMeta meta = CheckpointMeta::read(reader);
    std::printf("checkpoint %s, step %lld, saved by layout dp %lld pp %lld tp %lld\n",
                reader.directory().c_str(), static_cast<long long>(reader.step()),
                static_cast<long long>(meta.dp), static_cast<long long>(meta.pp),
                static_cast<long long>(meta.tp));
    print_model(meta.model_config(reader.directory()));
    if (o.tensors)
      for (const std::string& name : reader.names())
        print_tensor(name, to_string(reader.dtype(name)), reader.shape(name));
    return;
  }
  const ModelConfig config = ModelConfig::from_directory(o.path);
  const bool weights = SafetensorsDirectory::exists(o.path);
  std::printf("Hugging Face directory %s%s\n", o.path.c_str(),
              weights ? "" : ", config.json without weights");
  print_model(config);
  if (!weights) {
    if (o.tensors)
      for (const auto& [name, shape] : parameter_shapes(config)) print_tensor(name, "", shape);
    return;
  }
  const SafetensorsDirectory files(o.path);
  if (o.tensors)
    for (const std::string& name : files.names())
      print_tensor(name, type_of(files.entry(name)), files.entry(name).shape);
  for (const std::string& note : open_hugging_face(o.path)->notes()) std::printf("%s\n", note.c_str());
}

}  // namespace wuneng
