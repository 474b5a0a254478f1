#include "model/hugging_face.h"

#include <cstring>

#include "runtime/safetensors.h"

namespace wuneng {
namespace {

// The held part of a whole tensor, converted to the parameter's type.
void take_shard(const Parameter& p, const Tensor& whole) {
  const Tensor& to = p.var.value();
  if (p.shard_dim == 0) return to.copy_from(whole.rows(p.held.begin, p.held.end));
  WUNENG_ASSERT(p.shard_dim == 1 && whole.ndim() == 2);
  const int64_t columns = p.held.size();
  const Tensor piece = Tensor::empty({whole.dim(0), columns}, whole.dtype());
  const int64_t size = size_of(whole.dtype());
  for (int64_t i = 0; i < whole.dim(0); ++i)
    std::memcpy(static_cast<char*>(piece.raw()) + i * columns * size,
                static_cast<const char*>(whole.raw()) + (i * whole.dim(1) + p.held.begin) * size,
                columns * size);
  to.copy_from(piece);
}

class HuggingFaceWeights : public WeightSource {
 public:
  explicit HuggingFaceWeights(const std::string& directory)
      : directory_(directory), config_(ModelConfig::from_directory(directory)), files_(directory) {}

  const ModelConfig& config() const override { return config_; }
  std::string where() const override { return directory_; }
  bool contains(const std::string& name) const override { return files_.contains(name); }
  Shape shape(const std::string& name) const override { return files_.entry(name).shape; }
  void read_shard(const Parameter& p) override { take_shard(p, files_.tensor(p.name)); }
  Tensor rows(const std::string& name, int64_t begin, int64_t end) override {
    return files_.tensor(name).rows(begin, end).to(DType::f32);
  }

 private:
  std::string directory_;
  ModelConfig config_;
  SafetensorsDirectory files_;
};

}  // namespace

std::unique_ptr<WeightSource> open_hugging_face(const std::string& directory) {
  return std::make_unique<HuggingFaceWeights>(directory);
}

}  // namespace wuneng
