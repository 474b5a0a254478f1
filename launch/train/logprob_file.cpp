#include "launch/train/logprob_file.h"

#include "launch/train/checkpoint_weights.h"
#include "launch/train/identity.h"
#include "runtime/hash.h"
#include "runtime/safetensors.h"

namespace wuneng {
namespace {

constexpr const char* kFormat = "wuneng label_logprob 1";
constexpr Split kSplits[] = {Split::train, Split::held_out};

std::string name_of(size_t source, Split split) {
  return fmt::format("source{}.{}", source, split == Split::train ? "train" : "held_out");
}

std::vector<IdentityField> identity_of_logprobs(const TrainRecipe& r, const TrainingData& data) {
  std::vector<IdentityField> out = {
      {"format", kFormat, "this program's log-probabilities of labels"},
      {"tokenizer", data.tokenizer(), "tokens of the recipe's tokenizer"},
      {"sources", std::to_string(data.sources()), "as many sources as [data] has"}};
  for (size_t i = 0; i < data.sources(); ++i)
    out.push_back({fmt::format("data.{}", i), hash_text(data.corpus(i).fingerprint()),
                   fmt::format("the fingerprint of the data of source {}", i)});
  out.push_back({"model", hash_text(weights_fingerprint(*open_weights(r.teacher_path))),
                 "the fingerprint of the weights of teacher.path"});
  return out;
}

std::string checksum(const Tensor& values) { return hash_text(hash_of(values.raw(), values.bytes())); }

}  // namespace

void write_logprobs(const TrainRecipe& r, const TrainingData& data, const LogprobTensors& values) {
  std::map<std::string, std::string> metadata = {{"model_path", r.teacher_path}};
  for (const IdentityField& field : identity_of_logprobs(r, data)) metadata[field.key] = field.value;
  std::vector<SafetensorsItem> items;
  std::map<std::string, Tensor> by_name;
  for (size_t i = 0; i < values.size(); ++i)
    for (const Split split : kSplits) {
      const Tensor& tensor = values[i][index_of(split)];
      const std::string name = name_of(i, split);
      metadata["xxh3." + name] = checksum(tensor);
      items.push_back({name, DType::f32, tensor.shape()});
      by_name[name] = tensor;
    }
  write_safetensors_file(r.precomputed, items, metadata,
                         [&](const SafetensorsItem& item) { return by_name.at(item.name); });
}

LogprobTensors open_logprobs(const TrainRecipe& r, const TrainingData& data, bool check_values) {
  const std::string at = r.path + ": teacher.precomputed = \"" + r.precomputed + "\"";
  const SafetensorsFile file(r.precomputed);
  const auto text = [&](const std::string& key) {
    const auto found = file.metadata().find(key);
    return found == file.metadata().end() ? std::string() : found->second;
  };
  require_identity(identity_of_logprobs(r, data), file.metadata(), at,
                   "wuneng precompute makes the file for a recipe");
  LogprobTensors out(data.sources());
  for (size_t i = 0; i < data.sources(); ++i)
    for (const Split split : kSplits) {
      const std::string name = name_of(i, split);
      const Tensor values = file.tensor(name);
      const Shape expected = {data.corpus(i).size(split)};
      require(values.dtype() == DType::f32 && values.shape() == expected,
              "{}: tensor {}: expected f32 {}, found {} {}", at, name, to_string(expected),
              to_string(values.dtype()), to_string(values.shape()));
      if (check_values)
        require(checksum(values) == text("xxh3." + name),
                "{}: tensor {}: expected checksum {}, found {}: the file is damaged", at, name,
                text("xxh3." + name), checksum(values));
      out[i][index_of(split)] = values;
    }
  return out;
}

}  // namespace wuneng
