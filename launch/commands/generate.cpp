#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <sstream>

#include "launch/commands/commands.h"
#include "launch/commands/model_codec.h"
#include "launch/train/checkpoint_weights.h"
#include "model/generation/decoder_engine.h"
#include "runtime/file.h"

namespace wuneng {
namespace {

std::vector<int32_t> prompt_tokens(const GenerateOptions& o, const TextCodec& codec,
                                   const std::string& prompt) {
  if (o.chat) return codec.encode_chat({{{"role", "user"}, {"content", prompt}}}, nullptr, true).ids;
  std::vector<int32_t> tokens;
  codec.encode(prompt, tokens);
  return tokens;
}

// --prompt, or the lines of --prompts.
std::vector<std::string> prompts_of(const GenerateOptions& o) {
  require(o.prompt.empty() != o.prompts.empty(),
          "generate: expected --prompt with a text or --prompts with a file, found {}",
          o.prompt.empty() ? "neither" : "both");
  if (o.prompts.empty()) return {o.prompt};
  std::vector<std::string> out;
  std::istringstream lines(read_file(o.prompts));
  for (std::string line; std::getline(lines, line);)
    if (!line.empty()) out.push_back(line);
  require(!out.empty(), "generate: --prompts {}: expected lines of text, found none", o.prompts);
  return out;
}

void write(std::string_view bytes) { std::fwrite(bytes.data(), 1, bytes.size(), stdout); }

}  // namespace

void generate(const GenerateOptions& o) {
  const std::vector<std::string> prompts = prompts_of(o);
  require(o.tokens >= 0, "generate: --tokens {}: expected 0 or more", o.tokens);
  require(o.sampling.temperature >= 0 && std::isfinite(o.sampling.temperature),
          "generate: --temperature {}: expected 0 or more", o.sampling.temperature);
  check_sampling(o.sampling, "generate");
  const Device device = parse_device(o.device, 0);
  const auto weights = open_whole_weights(o.model);
  const int64_t vocab = weights->config().vocab_size;
  const TextCodec codec = open_codec("generate", o.model, o.tokenizer, o.chat_template, vocab).codec;
  std::vector<GenerationRequest> requests;
  size_t longest = 0;
  for (const std::string& prompt : prompts) {
    requests.push_back({.prompt = prompt_tokens(o, codec, prompt),
                        .max_tokens = o.tokens,
                        .sampling = o.sampling,
                        .end_tokens = end_tokens(codec, weights->config())});
    longest = std::max(longest, requests.back().prompt.size());
  }
  DecoderEngine engine(make_model(*weights, device, o.weights == "bf16" ? DType::bf16 : DType::f32),
                       {.max_sequences = std::min<int64_t>(o.max_sequences, std::ssize(prompts)),
                        .context_length = static_cast<int64_t>(longest) + o.tokens});
  for (size_t i = 0; i < requests.size(); ++i) engine.add(static_cast<int64_t>(i), requests[i]);
  const bool one = o.prompts.empty();
  if (one && !o.chat) write(o.prompt);
  std::vector<std::string> texts(prompts.size());
  while (!engine.idle())
    for (const GenerationEvent& event : engine.step()) {
      if (!event.token || event.finish == Finish::end_token) continue;
      const std::string_view bytes = codec.bytes_of(event.token->token);
      texts[event.request] += bytes;
      if (!one) continue;
      write(bytes);
      std::fflush(stdout);
    }
  if (one) return void(std::fputc('\n', stdout));
  for (size_t i = 0; i < prompts.size(); ++i)
    write(nlohmann::json{{"prompt", prompts[i]}, {"text", texts[i]}}.dump(
              -1, ' ', false, nlohmann::json::error_handler_t::replace) +
          "\n");
}

}  // namespace wuneng
