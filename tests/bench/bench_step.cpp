// Training steps (forward, loss, backward, AdamW), or a teacher's share of one (forward and logits), of one
// or more mixers at one shape: milliseconds, medians of several. The mixers take turns, a step each, so that
// a busy machine disturbs all alike; each line's ratios to the first mixer are medians over these turns.
// bench_step.py and bench_gpu.py run it beside PyTorch. On a GPU parameters and activations are bf16.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <memory>
#include <random>
#include <sstream>

#include "model/decoder.h"
#include "model/objectives/vocabulary_loss.h"
#include "parallel/optimizer.h"
#include "runtime/threads.h"

namespace wuneng {
namespace {

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

// Milliseconds on the clock, and of the processor over all threads.
struct Times {
  std::vector<double> wall, cpu;
};

class Bench {
 public:
  Bench(const ModelConfig& config, Device device, bool forward_only)
      : config_(config),
        device_(device),
        forward_only_(forward_only),
        model_(config, Placement{.device = device, .activations = type(), .record = true}, type()) {
    model_.initialize_random(1);
    const Parameters updated = forward_only ? Parameters() : model_.parameters();
    optimizer_ = std::make_unique<Optimizer>(std::vector<ParameterPart>(updated.begin(), updated.end()),
                                             AdamwOptions{}, model_.stream());
  }

  void step(const MicroBatch& batch) {
    const auto begin = std::chrono::steady_clock::now();
    const std::clock_t cpu_begin = std::clock();
    run(batch);
    synchronize(device_);
    times.cpu.push_back(1e3 * static_cast<double>(std::clock() - cpu_begin) / CLOCKS_PER_SEC);
    times.wall.push_back(
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
  }

  Times times;

 private:
  DType type() const { return device_.kind == DeviceKind::cuda ? DType::bf16 : DType::f32; }

  void run(const MicroBatch& batch) {
    Tape tape(model_.stream(), !forward_only_);
    const Var hidden = model_.forward(tape, batch, {}).hidden;
    if (forward_only_) return static_cast<void>(model_.logits(hidden.value()));
    const Tensor sums = Tensor::zeros({3}, DType::f64, device_);
    const Var loss = vocabulary_loss(tape, Comm(), hidden, model_.head(), batch.labels, {}, {.ce_weight = 1},
                                     double(batch.labels.dim(0)), sums);
    loss.set_grad(Tensor::from<float>({1.0f}, {1}));
    tape.backward();
    optimizer_->step(1e-4);
    sums.to(Device{});  // waits for a GPU, as a step's report does
  }

  const ModelConfig config_;
  const Device device_;
  const bool forward_only_;
  Decoder model_;
  std::unique_ptr<Optimizer> optimizer_;
};

MicroBatch random_batch(int64_t vocab, int64_t length, int64_t sequences) {
  const int64_t T = length * sequences;
  MicroBatch batch{Tensor::empty({T}, DType::i32), Tensor::empty({T}, DType::i32), {}};
  std::mt19937 random(1);
  for (int64_t t = 0; t < T; ++t)
    batch.tokens.data<int32_t>()[t] = static_cast<int32_t>(random() % vocab),
    batch.labels.data<int32_t>()[t] = static_cast<int32_t>(random() % vocab);
  for (int64_t t = 0; t <= T; t += length) batch.documents.push_back(t);
  return batch;
}

// The median of times over base, turn by turn.
double ratio(const std::vector<double>& times, const std::vector<double>& base) {
  std::vector<double> ratios;
  for (size_t i = 0; i < times.size(); ++i) ratios.push_back(times[i] / base[i]);
  return median(ratios);
}

int run(int argc, char** argv) {
  if (argc < 10) {
    fmt::print(stderr,
               "usage: bench_step HIDDEN LAYERS HEADS KV_HEADS FFN VOCAB SEQ_LEN SEQUENCES STEPS "
               "[cpu | cuda [MIXERS [forward]]]\nMIXERS: a list like attention,full,lean,literal\n");
    return 2;
  }
  const auto arg = [&](int i) { return std::atoll(argv[i]); };
  ModelConfig c;
  c.hidden_size = arg(1), c.num_layers = arg(2), c.num_heads = arg(3), c.num_kv_heads = arg(4),
  c.intermediate_size = arg(5), c.vocab_size = arg(6);
  c.head_dim = c.hidden_size / c.num_heads;
  const Device device = parse_device(argc > 10 ? argv[10] : "cpu", 0);
  const bool forward_only = argc > 12 && std::string(argv[12]) == "forward";
  std::vector<std::string> names;
  std::vector<std::unique_ptr<Bench>> benches;
  std::istringstream list(argc > 11 ? argv[11] : "attention");
  for (std::string name; std::getline(list, name, ',');) {
    ModelConfig own = c;
    if (name != "attention") own.set_mixer("wuneng", name);
    own.check("bench_step");
    names.push_back(name);
    benches.push_back(std::make_unique<Bench>(own, device, forward_only));
  }
  const MicroBatch batch = random_batch(c.vocab_size, arg(7), arg(8));
  constexpr int kWarmUp = 3;  // the third records, on a GPU
  for (int64_t step = 0; step < arg(9) + kWarmUp; ++step)
    for (const auto& bench : benches) {
      if (step == kWarmUp) bench->times = {};
      bench->step(batch);
    }
  for (size_t i = 0; i < benches.size(); ++i) {
    const Times &times = benches[i]->times, &first = benches[0]->times;
    fmt::print("{:.2f} ms, {:.2f} ms of processors, {}, {} threads", median(times.wall), median(times.cpu),
               names[i], thread_count());
    if (i > 0)
      fmt::print(", {:.3f} of {}, {:.3f} in processor time", ratio(times.wall, first.wall), names[0],
                 ratio(times.cpu, first.cpu));
    if (benches.size() == 1)
      fmt::print(", peak tensors {:.0f} MB", double(memory_use(device.kind).peak) / 1e6);
    fmt::print("\n");
  }
  return 0;
}

}  // namespace
}  // namespace wuneng

int main(int argc, char** argv) { return wuneng::run(argc, argv); }
