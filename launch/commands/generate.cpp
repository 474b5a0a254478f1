#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>

#include "data/tokenizer/text_codec.h"
#include "launch/commands/commands.h"
#include "launch/train/checkpoint_weights.h"

namespace wuneng {
namespace {

int32_t sample(const float* logits, int64_t vocab, double temperature, std::mt19937_64& random) {
  require(std::all_of(logits, logits + vocab, [](float x) { return std::isfinite(x); }),
          "generate: expected finite logits, found others");
  const int64_t argmax = std::max_element(logits, logits + vocab) - logits;
  if (temperature <= 0) return static_cast<int32_t>(argmax);
  std::vector<double> weight(vocab);
  for (int64_t i = 0; i < vocab; ++i) weight[i] = std::exp((logits[i] - logits[argmax]) / temperature);
  return static_cast<int32_t>(std::discrete_distribution<int64_t>(weight.begin(), weight.end())(random));
}

TextCodec open_codec(const GenerateOptions& o, int64_t vocab) {
  if (o.tokenizer == "bytes") return TextCodec::bytes();
  if (!o.tokenizer.empty()) return TextCodec::load(o.tokenizer, o.chat_template);
  if (TextCodec::has_tokenizer(o.model)) return TextCodec::load(o.model, o.chat_template);
  require(vocab == 256,
          "generate: {}: expected tokenizer.json or vocab.json, or a byte model (vocabulary 256), found a "
          "vocabulary of {} and no tokenizer; use --tokenizer",
          o.model, vocab);
  return TextCodec::bytes();
}

std::vector<int32_t> prompt_tokens(const GenerateOptions& o, const TextCodec& codec) {
  if (o.chat) return codec.encode_chat({{{"role", "user"}, {"content", o.prompt}}}, nullptr, true).ids;
  std::vector<int32_t> tokens;
  codec.encode(o.prompt, tokens);
  return tokens;
}

void write(std::string_view bytes) { std::fwrite(bytes.data(), 1, bytes.size(), stdout); }

}  // namespace

void generate(const GenerateOptions& o) {
  require(!o.prompt.empty(), "generate: --prompt: expected text, found none");
  require(o.tokens >= 0, "generate: --tokens {}: expected 0 or more", o.tokens);
  require(o.temperature >= 0 && std::isfinite(o.temperature),
          "generate: --temperature {}: expected 0 or more", o.temperature);
  const Device device = parse_device(o.device, 0);
  const auto weights = open_whole_weights(o.model);
  const int64_t vocab = weights->config().vocab_size;
  const TextCodec codec = open_codec(o, vocab);
  require(codec.vocab_size() <= vocab,
          "generate: expected a tokenizer of at most {} ids, the size of the model's vocabulary, found {}",
          vocab, codec.vocab_size());
  std::vector<int32_t> tokens = prompt_tokens(o, codec);
  if (static_cast<int64_t>(tokens.size()) > o.window)
    std::fprintf(stderr, "wuneng: the prompt has %zu tokens, of which the last %lld are used\n",
                 tokens.size(), static_cast<long long>(o.window));
  const auto model = make_model(*weights, device);
  if (!o.chat) write(o.prompt);
  std::mt19937_64 random(o.seed);
  for (int64_t i = 0; i < o.tokens; ++i) {
    const int64_t T = std::min<int64_t>(o.window, static_cast<int64_t>(tokens.size()));
    const std::vector<int32_t> context(tokens.end() - T, tokens.end());
    Tape no_grad(model->stream(), false);
    const Var hidden = model->forward(no_grad, {Tensor::from(context, {T}), Tensor(), {0, T}}, {}).hidden;
    const Tensor last = model->logits(hidden.value().rows(T - 1, T)).to(Device{});
    tokens.push_back(sample(last.f32(), vocab, o.temperature, random));
    if (codec.ends(tokens.back())) break;
    write(codec.bytes_of(tokens.back()));
    std::fflush(stdout);
  }
  std::fputc('\n', stdout);
}

}  // namespace wuneng
