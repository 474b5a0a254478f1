// reference_probe [--device=cuda [--activations=bf16]] DIRECTORY...: runs each model directory on its
// tokens.json and writes out.safetensors beside it: logits [T, V], loss [1] (mean cross entropy over labels
// >= 0) and grad.NAME for every parameter. check_models.py holds these against the float64 reference.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "model/hugging_face.h"
#include "model/objectives/vocabulary_loss.h"
#include "runtime/file.h"
#include "runtime/safetensors.h"

namespace {

using namespace wuneng;

void probe(const std::string& directory, Device device, DType activations) {
  const auto input = nlohmann::json::parse(read_file(directory + "/tokens.json"));
  const auto tokens = input["tokens"].get<std::vector<int32_t>>(),
             labels = input["labels"].get<std::vector<int32_t>>();
  const int64_t T = static_cast<int64_t>(tokens.size());
  const ModelConfig config = ModelConfig::from_directory(directory);
  Decoder model(config, Placement{.device = device, .activations = activations}, DType::f32,
                recompute_named(input.value("recompute", "none")));
  load_weights(model, *open_hugging_face(directory), 0);
  Tape tape(model.stream());
  const MicroBatch batch{Tensor::from(tokens, {T}), Tensor::from(labels, {T}),
                         input["documents"].get<std::vector<int64_t>>()};
  const Var hidden = model.forward(tape, batch, {}).hidden;
  const Tensor logits = model.logits(hidden.value());
  const Tensor sums = Tensor::zeros({3}, DType::f64, device);
  const double loss_tokens =
      static_cast<double>(std::count_if(labels.begin(), labels.end(), [](int32_t l) { return l >= 0; }));
  const Var loss = vocabulary_loss(tape, Comm(), hidden, model.head(), batch.labels, {},
                                   {.ce_weight = 1, .chunk_tokens = 4}, loss_tokens, sums);
  loss.set_grad(Tensor::from<float>({1.0f}, {1}));
  tape.backward();
  const Tensor mean = loss.value().to(Device{});
  std::vector<std::pair<std::string, Tensor>> out = {
      {"logits", logits}, {"loss", Tensor::from<float>({static_cast<float>(mean.data<double>()[0])}, {1})}};
  for (const Parameter* p : model.parameters()) out.emplace_back("grad." + p->name, p->var.grad_buffer());
  std::vector<SafetensorsItem> items;
  for (const auto& [name, t] : out) items.push_back({name, t.dtype(), t.shape()});
  write_safetensors(directory + "/out", items, INT64_MAX, [&](const SafetensorsItem& item) {
    for (const auto& [name, t] : out)
      if (name == item.name) return t;
    fail("no tensor {}", item.name);
  });
}

}  // namespace

int main(int argc, char** argv) {
  int failed = 0;
  Device device;
  DType activations = DType::f32;
  for (int i = 1; i < argc; ++i) {
    try {
      if (std::string(argv[i]) == "--device=cuda")
        device = parse_device("cuda", 0);
      else if (std::string(argv[i]) == "--activations=bf16")
        activations = DType::bf16;
      else
        probe(argv[i], device, activations);
    } catch (const std::exception& e) {
      std::fprintf(stderr, "reference_probe: %s: %s\n", argv[i], e.what());
      failed = 1;
    }
  }
  return failed;
}
