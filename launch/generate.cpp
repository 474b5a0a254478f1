#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

#include "launch/commands.h"
#include "launch/model_state.h"

namespace wuneng {
namespace {

int32_t sample(const float* logits, int64_t vocab, double temperature, std::mt19937_64& random) {
  const int64_t best = std::max_element(logits, logits + vocab) - logits;
  if (temperature <= 0) return static_cast<int32_t>(best);
  std::vector<double> weight(vocab);
  for (int64_t i = 0; i < vocab; ++i) weight[i] = std::exp((logits[i] - logits[best]) / temperature);
  return static_cast<int32_t>(std::discrete_distribution<int64_t>(weight.begin(), weight.end())(random));
}

}  // namespace

void generate(const GenerateOptions& o) {
  const auto model = open_model(o.model);
  const int64_t vocab = model->config().vocab_size;
  require(vocab == 256,
          "generate: {} has a vocabulary of {}; only byte models (256) can be prompted with text", o.model,
          vocab);
  require(!o.prompt.empty(), "generate: the prompt is empty");
  std::vector<int32_t> tokens;
  for (char c : o.prompt) tokens.push_back(static_cast<unsigned char>(c));
  std::fputs(o.prompt.c_str(), stdout);
  std::mt19937_64 random(o.seed);
  for (int64_t i = 0; i < o.tokens; ++i) {
    const int64_t T = std::min<int64_t>(o.window, static_cast<int64_t>(tokens.size()));
    const std::vector<int32_t> seen(tokens.end() - T, tokens.end());
    Tape silent({}, false);
    const Var hidden = model->forward(silent, {Tensor::from(seen, {T}), Tensor(), {0, T}}, {});
    const Tensor last = model->logits({}, hidden.value().rows(T - 1, T));
    tokens.push_back(sample(last.f32(), vocab, o.temperature, random));
    std::fputc(tokens.back(), stdout);
    std::fflush(stdout);
  }
  std::fputc('\n', stdout);
}

}  // namespace wuneng
