// One training step (forward, loss, backward, AdamW), or a teacher's share of one (forward and logits):
// milliseconds, medians of several. bench_step.py and bench_gpu.py run it beside PyTorch. On a GPU parameters
// and activations are bf16.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>

#include "model/decoder.h"
#include "model/initialize.h"
#include "model/objectives/vocabulary_loss.h"
#include "parallel/optimizer.h"
#include "runtime/threads.h"

int main(int argc, char** argv) {
  using namespace wuneng;
  if (argc < 10)
    return std::fprintf(stderr,
                        "usage: bench_step HIDDEN LAYERS HEADS KV_HEADS FFN VOCAB SEQ_LEN SEQUENCES STEPS "
                        "[cpu | cuda [qwen2 | full | lean | literal [forward]]]\n"),
           2;
  const auto arg = [&](int i) { return std::atoll(argv[i]); };
  ModelConfig c;
  c.hidden_size = arg(1), c.num_layers = arg(2), c.num_heads = arg(3), c.num_kv_heads = arg(4),
  c.intermediate_size = arg(5), c.vocab_size = arg(6);
  c.head_dim = c.hidden_size / c.num_heads;
  const Device device = parse_device(argc > 10 ? argv[10] : "cpu", 0);
  if (const std::string mixer = argc > 11 ? argv[11] : "qwen2"; mixer != "qwen2")
    c.mixer = "wuneng", c.wuneng = preset(mixer, c);
  c.check("bench_step");
  const DType type = device.kind == DeviceKind::cuda ? DType::bf16 : DType::f32;
  Decoder model(c, Placement{.device = device, .activations = type}, type);
  for (const Parameter* p : model.parameters()) initialize_random(*p, c, 1);
  const bool forward_only = argc > 12 && std::string(argv[12]) == "forward";
  Optimizer optimizer(forward_only ? Parameters() : model.parameters(), {}, model.stream());
  const int64_t L = arg(7), T = L * arg(8);
  MicroBatch batch{Tensor::empty({T}, DType::i32), Tensor::empty({T}, DType::i32), {}};
  std::mt19937 random(1);
  for (int64_t t = 0; t < T; ++t)
    batch.tokens.data<int32_t>()[t] = static_cast<int32_t>(random() % c.vocab_size),
    batch.labels.data<int32_t>()[t] = static_cast<int32_t>(random() % c.vocab_size);
  for (int64_t t = 0; t <= T; t += L) batch.documents.push_back(t);
  std::vector<double> times;
  for (int64_t step = 0; step < arg(9) + 2; ++step) {
    const auto begin = std::chrono::steady_clock::now();
    Tape tape(model.stream(), !forward_only);
    const Var hidden = model.forward(tape, batch, {});
    if (forward_only) {
      model.logits(hidden.value());
    } else {
      const Tensor sums = Tensor::zeros({3}, DType::f64, device);
      const Var loss = vocabulary_loss(tape, Comm(), hidden, model.head(), batch.labels, {}, {.ce_weight = 1},
                                       double(T), sums);
      loss.set_grad(Tensor::from<float>({1.0f}, {1}));
      tape.backward();
      optimizer.step(1e-4, 1);
      sums.to(Device{});  // waits for a GPU, as a step's report does
    }
    synchronize(device);
    if (step >= 2)
      times.push_back(
          std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count());
  }
  std::sort(times.begin(), times.end());
  std::printf("%.2f ms, %d threads, peak tensors %.0f MB\n", times[times.size() / 2], thread_count(),
              double(memory_use(device.kind).peak) / 1e6);
}
