#include "launch/train/checkpoint_weights.h"

#include <cstdio>

#include "launch/train/checkpoint_meta.h"
#include "model/hugging_face.h"

namespace wuneng {
namespace {

class CheckpointWeights : public WeightSource {
 public:
  explicit CheckpointWeights(const std::string& path)
      : reader_(path), config_(CheckpointMeta::read(reader_).model_config(reader_.directory())) {}

  const ModelConfig& config() const override { return config_; }
  std::string where() const override { return reader_.directory(); }
  bool contains(const std::string& name) const override { return reader_.contains(tensor(name)); }
  Shape shape(const std::string& name) const override { return reader_.shape(tensor(name)); }
  void read_shard(const Parameter& p) override { read_part(reader_, tensor(p.name), &p, p.var.value()); }
  Tensor rows(const std::string& name, int64_t begin, int64_t end) override {
    Shape size = reader_.shape(tensor(name)), first(size.size(), 0);
    first[0] = begin, size[0] = end - begin;
    const Tensor stored = Tensor::empty(size, reader_.dtype(tensor(name)));
    reader_.read(tensor(name), first, stored);
    return stored.to(DType::f32);
  }

 private:
  static std::string tensor(const std::string& name) { return "model/" + name; }

  CheckpointReader reader_;
  ModelConfig config_;
};

}  // namespace

void read_part(CheckpointReader& reader, const std::string& name, const ParameterPart& part,
               const Tensor& into) {
  const Parameter& p = *part.parameter;
  require(reader.contains(name), "{}: tensor {} is missing", reader.directory(), name);
  require(reader.shape(name) == p.global_shape, "{}: tensor {}: expected shape {}, found {}",
          reader.directory(), name, to_string(p.global_shape), to_string(reader.shape(name)));
  if (part.elements.size() == 0) return;
  // The rows that the part begins and ends in are read whole.
  Shape begin = p.held_begin(), size = p.local_shape();
  const int64_t row = p.var.value().numel() / size[0];
  const Range rows{part.elements.begin / row, (part.elements.end + row - 1) / row};
  begin[0] += rows.begin;
  size[0] = rows.size();
  if (reader.dtype(name) == into.dtype() && into.device() == Device{} &&
      part.elements == Range{rows.begin * row, rows.end * row})
    return reader.read(name, begin, into.view(size));
  const Tensor stored = Tensor::empty(size, reader.dtype(name));
  reader.read(name, begin, stored);
  const int64_t first = part.elements.begin - rows.begin * row;
  into.copy_from(stored.view({stored.numel()}).rows(first, first + part.elements.size()).view(into.shape()));
}

std::unique_ptr<WeightSource> open_weights(const std::string& path) {
  if (has_checkpoint(path)) return std::make_unique<CheckpointWeights>(path);
  return open_hugging_face(path);
}

std::unique_ptr<WeightSource> open_whole_weights(const std::string& path) {
  return open_weights(has_checkpoint(path) ? newest_whole_checkpoint(path) : path);
}

std::string tokenizer_of(const std::string& path) {
  return has_checkpoint(path) ? CheckpointMeta::read(CheckpointReader(path)).tokenizer_from : path;
}

std::unique_ptr<Decoder> make_model(WeightSource& weights, Device device, DType dtype, const Comm& tp) {
  if (tp.rank() == 0)
    for (const std::string& note : weights.notes()) std::fprintf(stderr, "wuneng: %s\n", note.c_str());
  auto model = std::make_unique<Decoder>(weights.config(), Placement{.tp = tp, .device = device}, dtype);
  load_weights(*model, weights, 0);
  return model;
}

}  // namespace wuneng
