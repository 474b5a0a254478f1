// A divergence from the teacher over a vocabulary, fused with the output matrix: forward and backward from
// the final hidden state, on one rank's CPU. Prints the median in ms. Usage: bench_loss BETA [tokens = 256]
// [hidden = 64] [vocab = 152064] [rounds = 5] BETA: 0 "kl", 1 "reverse_kl", between them "jsd". bench_loss.py
// has PyTorch's times next to these.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "model/objectives/vocabulary_loss.h"

namespace wuneng {
namespace {

Tensor normal(const Shape& shape, float scale, std::mt19937& random) {
  const Tensor out = Tensor::empty(shape);
  std::normal_distribution<float> values(0, scale);
  for (int64_t i = 0; i < out.numel(); ++i) out.f32()[i] = values(random);
  return out;
}

void bench(float beta, int64_t T, int64_t d, int64_t V, int rounds) {
  std::mt19937 random(1);
  Parameter head;
  head.held = head.owned = {0, V};
  head.var = Var(normal({V, d}, 0.02f, random), true, DType::f32);
  const Tensor hidden = normal({T, d}, 1, random), teacher = normal({T, V}, 1, random);
  const Tensor labels = Tensor::zeros({T}, DType::i32);
  std::vector<double> times;
  for (int i = 0; i <= rounds; ++i) {  // the first touches every page
    const auto begin = std::chrono::steady_clock::now();
    Tape tape;
    const Var h(hidden, true);
    const Var loss =
        vocabulary_loss(tape, Comm(), h, &head, labels, {.logits = {{{0, T}, {0, V}, teacher}}},
                        {.beta = beta, .chunk_tokens = 128}, double(T), Tensor::zeros({3}, DType::f64));
    loss.set_grad(Tensor::from<float>({1.0f}, {1}));
    tape.backward();
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - begin;
    if (i > 0) times.push_back(time.count());
  }
  std::sort(times.begin(), times.end());
  fmt::print("{:.1f} ms\n", times[times.size() / 2]);
}

}  // namespace
}  // namespace wuneng

int main(int argc, char** argv) {
  const auto number = [&](int i, int64_t fallback) { return argc > i ? std::atoll(argv[i]) : fallback; };
  wuneng::bench(argc > 1 ? std::strtof(argv[1], nullptr) : 0.0f, number(2, 256), number(3, 64),
                number(4, 152'064), static_cast<int>(number(5, 5)));
}
