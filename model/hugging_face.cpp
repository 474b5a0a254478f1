#include "model/hugging_face.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "model/parameter_count.h"
#include "runtime/finite.h"
#include "runtime/safetensors.h"

namespace wuneng {
namespace {

constexpr const char *kEmbedding = "model.embed_tokens.weight", *kHead = "lm_head.weight";

// The held part of a whole tensor, in its stored type.
Tensor held_part(const Parameter& p, const Tensor& whole) {
  if (p.shard_dim == 0) return whole.rows(p.held.begin, p.held.end);
  WUNENG_ASSERT(p.shard_dim == 1 && whole.ndim() == 2);
  const int64_t columns = p.held.size();
  const Tensor piece = Tensor::empty({whole.dim(0), columns}, whole.dtype());
  const int64_t size = size_of(whole.dtype());
  for (int64_t i = 0; i < whole.dim(0); ++i)
    std::memcpy(static_cast<char*>(piece.raw()) + i * columns * size,
                static_cast<const char*>(whole.raw()) + (i * whole.dim(1) + p.held.begin) * size,
                columns * size);
  return piece;
}

// Weights in f32 or bf16, on the host: an f64 may be too large for them.
void require_finite(const Tensor& weights, const std::string& where) {
  const NonFinite found = find_non_finite(weights.raw(), weights.numel(), weights.dtype());
  require(found.count == 0, "{}: {} of its elements are not finite as {}, the first of them number {}", where,
          found.count, to_string(weights.dtype()), found.first);
}

bool is_float(const SafetensorsEntry& entry) {
  return entry.dtype && (*entry.dtype == DType::f32 || *entry.dtype == DType::bf16 ||
                         *entry.dtype == DType::f16 || *entry.dtype == DType::f64);
}

bool is_no_weight(const std::string& type) { return type == "BOOL" || type[0] == 'I' || type[0] == 'U'; }

// Tables that some versions of transformers stored with a model, and that follow from its config.json.
bool is_derived(const std::string& name) {
  for (const char* table : {"rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached"})
    if (name.ends_with(table)) return true;
  return false;
}

// The first of some names, and how many more there are.
std::string first_of(const std::vector<std::string>& names) {
  return names.size() < 2 ? names.at(0) : fmt::format("{} and {} more", names[0], names.size() - 1);
}

class HuggingFaceWeights : public WeightSource {
 public:
  explicit HuggingFaceWeights(const std::string& directory)
      : directory_(directory), config_(ModelConfig::from_directory(directory)), files_(directory) {
    std::set<std::string> wanted;
    for (const auto& [name, shape] : parameter_shapes(config_)) {
      require_tensor(name, shape);
      wanted.insert(stored(name));
    }
    require_no_others(wanted);
  }

  const ModelConfig& config() const override { return config_; }
  std::string where() const override { return directory_; }
  std::vector<std::string> notes() const override { return notes_; }
  bool contains(const std::string& name) const override { return files_.contains(stored(name)); }
  Shape shape(const std::string& name) const override { return files_.entry(stored(name)).shape; }
  void read_shard(const Parameter& p) override {
    const Tensor& to = p.var.value();
    const Tensor part = held_part(p, files_.tensor(stored(p.name)));
    const std::string where = fmt::format("{}: tensor {}", directory_, p.name);
    if (to.device() != Device{}) {
      const Tensor converted = part.to(to.dtype());
      require_finite(converted, where);
      return to.copy_from(converted);
    }
    to.copy_from(part);
    require_finite(to, where);
  }
  Tensor rows(const std::string& name, int64_t begin, int64_t end) override {
    const Tensor out = files_.tensor(stored(name)).rows(begin, end).to(DType::f32);
    require_finite(out, fmt::format("{}: tensor {}, rows from {}", directory_, name, begin));
    return out;
  }

 private:
  // The one matrix of a tied model may be stored as the output's.
  std::string stored(const std::string& name) const {
    return config_.tie_word_embeddings && name == kEmbedding && !files_.contains(name) ? kHead : name;
  }

  // The layers that the files have, whatever config.json says.
  int64_t stored_layers() const {
    int64_t count = 0;
    for (const std::string& name : files_.names())
      if (const auto layer = layer_of(name)) count = std::max(count, *layer + 1);
    return count;
  }

  void require_tensor(const std::string& name, const Shape& shape) const {
    if (!files_.contains(stored(name)))
      fail("{}: tensor {} is missing{}", directory_, name, why_missing(name, shape));
    const SafetensorsEntry& entry = files_.entry(stored(name));
    require(entry.shape == shape, "{}: tensor {}: expected shape {}, found {}", directory_, stored(name),
            to_string(shape), to_string(entry.shape));
    require(is_float(entry), "{}: tensor {}: expected F32, BF16, F16 or F64, found {}", directory_,
            stored(name), entry.type);
  }

  std::string why_missing(const std::string& name, const Shape& shape) const {
    if (const auto layer = layer_of(name); layer && *layer >= stored_layers())
      return fmt::format(": config.json has num_hidden_layers = {}, the files have {} layers",
                         config_.num_layers, stored_layers());
    if (name == kHead)
      return fmt::format(": config.json has tie_word_embeddings = false; expected shape {}",
                         to_string(shape));
    const std::string module = name.substr(0, name.rfind('.'));
    for (const std::string& other : files_.names())
      if (other.starts_with(module + "."))
        return fmt::format("; expected shape {}; found {} ({} {})", to_string(shape), other,
                           files_.entry(other).type, to_string(files_.entry(other).shape));
    return "; expected shape " + to_string(shape);
  }

  // Tensors that the model has no place for. Those of integers and booleans cannot be weights: a note names
  // them.
  void require_no_others(const std::set<std::string>& wanted) {
    std::vector<std::string> unknown, beyond, unused;
    for (const std::string& name : files_.names()) {
      if (wanted.contains(name) || is_derived(name)) continue;
      const auto layer = layer_of(name);
      if (config_.tie_word_embeddings && name == kHead)
        require_equal_head();
      else if (layer && *layer >= config_.num_layers)
        beyond.push_back(name);
      else if (is_no_weight(files_.entry(name).type))
        unused.push_back(name);
      else
        unknown.push_back(name);
    }
    require(beyond.empty(), "{}: config.json has num_hidden_layers = {}, the files have {} layers: tensor {}",
            directory_, config_.num_layers, stored_layers(), beyond.empty() ? "" : first_of(beyond));
    require(unknown.empty(), "{}: tensor {}: a model of this config.json has no such tensor", directory_,
            unknown.empty() ? "" : first_of(unknown));
    for (const std::string& name : unused)
      notes_.push_back(fmt::format("{}: tensor {} ({} {}) is not used", directory_, name,
                                   files_.entry(name).type, to_string(files_.entry(name).shape)));
  }

  void require_equal_head() const {
    require_tensor(kHead, {config_.vocab_size, config_.hidden_size});
    const Tensor embedding = files_.tensor(kEmbedding), head = files_.tensor(kHead);
    constexpr int64_t kRows = 1024;
    for (int64_t begin = 0; begin < config_.vocab_size; begin += kRows) {
      const int64_t end = std::min(begin + kRows, config_.vocab_size);
      const Tensor a = embedding.rows(begin, end).to(DType::f32), b = head.rows(begin, end).to(DType::f32);
      require(std::memcmp(a.raw(), b.raw(), a.bytes()) == 0,
              "{}: config.json has tie_word_embeddings = true, but {} differs from {}: set it to false to "
              "use both, "
              "or remove {}",
              directory_, kHead, kEmbedding, kHead);
    }
  }

  std::string directory_;
  ModelConfig config_;
  SafetensorsDirectory files_;
  std::vector<std::string> notes_;
};

}  // namespace

std::unique_ptr<WeightSource> open_hugging_face(const std::string& directory) {
  return std::make_unique<HuggingFaceWeights>(directory);
}

}  // namespace wuneng
