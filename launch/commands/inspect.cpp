#include <cstdio>
#include <nlohmann/json.hpp>

#include "launch/commands/commands.h"
#include "launch/train/training_state.h"
#include "runtime/safetensors.h"

namespace wuneng {
namespace {

void print_tensor(const std::string& name, DType dtype, const Shape& shape) {
  std::printf("  %-72s %-5s %s\n", name.c_str(), std::string(to_string(dtype)).c_str(),
              to_string(shape).c_str());
}

void print_shares(const ModelConfig& config) {
  const int64_t total = parameter_count(config);
  ModelConfig plain = config;
  plain.mixer = "qwen2";
  const int64_t qwen = parameter_count(plain), rwkv = rwkv7_student_parameter_count(config);
  std::printf("%s, %lld layers, hidden %lld, %lld heads, %lld kv_heads, vocabulary %lld\n",
              config.mixer.c_str(), static_cast<long long>(config.num_layers),
              static_cast<long long>(config.hidden_size), static_cast<long long>(config.num_heads),
              static_cast<long long>(config.num_kv_heads), static_cast<long long>(config.vocab_size));
  std::printf("parameters %lld\n", static_cast<long long>(total));
  if (!config.is_wuneng()) return;
  const auto share = [&](int64_t other) { return 100.0 * (double(total) / double(other) - 1); };
  std::printf("  %+.1f%% against Qwen2.5 of the same shape (%lld)\n", share(qwen),
              static_cast<long long>(qwen));
  std::printf("  %+.1f%% against the RWKV-7 student of the same shape (%lld)\n", share(rwkv),
              static_cast<long long>(rwkv));
}

}  // namespace

void inspect(const InspectOptions& o) {
  if (has_checkpoint(o.path)) {
    const CheckpointReader reader(o.path);
    std::printf("checkpoint %s, step %lld, saved by layout %s\n", reader.directory().c_str(),
                static_cast<long long>(reader.step()), reader.meta().at("layout").dump().c_str());
    print_shares(ModelConfig::from_json(reader.meta().at("config"), reader.directory()));
    if (o.tensors)
      for (const std::string& name : reader.names())
        print_tensor(name, reader.dtype(name), reader.shape(name));
    return;
  }
  std::printf("Hugging Face directory %s\n", o.path.c_str());
  print_shares(ModelConfig::from_directory(o.path));
  const SafetensorsDirectory files(o.path);
  if (o.tensors)
    for (const std::string& name : files.names())
      print_tensor(name, files.entry(name).dtype, files.entry(name).shape);
}

}  // namespace wuneng
