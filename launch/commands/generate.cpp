#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <sstream>

#include "data/tokenizer/text_stream.h"
#include "data/tokenizer/utf8.h"
#include "launch/commands/commands.h"
#include "launch/commands/generation_model.h"
#include "launch/commands/model_codec.h"
#include "launch/train/checkpoint_weights.h"
#include "launch/train/context_length.h"
#include "launch/train/end_tokens.h"
#include "model/generation/decoder_engine.h"
#include "runtime/file.h"

namespace wuneng {
namespace {

std::vector<int32_t> prompt_tokens(const GenerateOptions& o, const TextCodec& codec,
                                   const std::string& prompt) {
  if (o.chat) {
    ChatOptions options = o.chat_options;
    options.add_generation_prompt = true;
    return codec.encode_chat({{{"role", "user"}, {"content", prompt}}}, nullptr, options).ids;
  }
  return codec.encode_whole(prompt);
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

void write(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }

// The most tokens of a sequence: the longest prompt and --tokens, as far as the model has positions.
int64_t context_of(const GenerateOptions& o, const ModelConfig& config, int64_t longest, bool says) {
  const int64_t positions = positions_of(config), wanted = longest + o.tokens;
  require(positions == 0 || longest <= positions,
          "generate: expected a prompt of at most {} tokens, the model's max_position_embeddings, found {}",
          positions, longest);
  if (positions == 0 || wanted <= positions) return wanted;
  if (says)
    std::fprintf(stderr, "wuneng: generation ends at %lld tokens, the model's max_position_embeddings\n",
                 static_cast<long long>(positions));
  return positions;
}

struct Generation {
  std::vector<std::string> prompts;
  std::vector<GenerationRequest> requests;
  std::optional<TextCodec> codec;
  std::unique_ptr<DecoderEngine> engine;
  std::vector<TextStream> texts;               // of the prompts
  bool streams = false, shows_prompt = false;  // to stdout

  void run() {
    for (size_t i = 0; i < requests.size(); ++i) engine->add(static_cast<int64_t>(i), requests[i]);
    if (shows_prompt) write(prompts[0]);
    std::vector<std::string> written(prompts.size());
    const auto give = [&](int64_t request, const std::string& text) {
      written[request] += text;
      if (!streams) return;
      write(text);
      std::fflush(stdout);
    };
    while (!engine->idle())
      for (const GenerationEvent& event : engine->step()) {
        TextStream& stream = texts[event.request];
        if (stream.stopped()) continue;
        if (event.token && event.finish != Finish::end_token)
          give(event.request, stream.push(codec->bytes_of(event.token->token)));
        if (stream.stopped())
          engine->cancel(event.request);
        else if (event.finish != Finish::none)
          give(event.request, stream.finish());
      }
    if (streams) return void(std::fputc('\n', stdout));
    for (size_t i = 0; i < prompts.size(); ++i)
      write(nlohmann::json{{"prompt", prompts[i]}, {"text", written[i]}}.dump(
                -1, ' ', false, nlohmann::json::error_handler_t::replace) +
            "\n");
  }
};

}  // namespace

std::function<void()> prepare_generate(const GenerateOptions& o, Device device, const Comm& tp) {
  auto g = std::make_shared<Generation>();
  g->prompts = prompts_of(o);
  g->streams = o.prompts.empty();
  g->shows_prompt = g->streams && !o.chat;
  require(o.chat || !o.chat_options.any(),
          "generate: expected --enable-thinking and --date-string with --chat alone");
  require(o.tokens >= 0, "generate: --tokens {}: expected 0 or more", o.tokens);
  require(o.sampling.temperature >= 0 && std::isfinite(o.sampling.temperature),
          "generate: --temperature {}: expected 0 or more", o.sampling.temperature);
  check_sampling(o.sampling, "generate");
  for (const std::string& stop : o.stops)
    require(!stop.empty() && find_invalid_utf8(stop) == stop.size(),
            "generate: --stop '{}': expected a text of UTF-8 that is not empty", stop);
  g->texts.assign(g->prompts.size(), TextStream(o.stops));
  const auto weights = open_whole_weights(o.model);
  const ModelConfig& config = weights->config();
  g->codec = open_codec("generate", o.model, o.tokenizer, o.chat_template, config.vocab_size).codec;
  int64_t longest = 0;
  for (const std::string& prompt : g->prompts) {
    g->requests.push_back({.prompt = prompt_tokens(o, *g->codec, prompt),
                           .max_tokens = o.tokens,
                           .sampling = o.sampling,
                           .end_tokens = end_tokens(*g->codec, config)});
    longest = std::max(longest, std::ssize(g->requests.back().prompt));
  }
  const int64_t context = context_of(o, config, longest, tp.rank() == 0);
  g->engine = std::make_unique<DecoderEngine>(
      make_generation_model(*weights, o.weights, device, tp),
      EngineOptions{.max_sequences = std::min<int64_t>(o.max_sequences, std::ssize(g->prompts)),
                    .context_length = context});
  return [g, leads = tp.rank() == 0] {
    if (!leads) return g->engine->follow();
    g->run();
    g->engine->end_others();
  };
}

}  // namespace wuneng
