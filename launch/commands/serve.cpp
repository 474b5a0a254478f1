#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "data/tokenizer/utf8.h"
#include "launch/commands/commands.h"
#include "launch/commands/generation_model.h"
#include "launch/commands/model_codec.h"
#include "launch/serve/bearer_token.h"
#include "launch/serve/server.h"
#include "launch/train/checkpoint_weights.h"
#include "launch/train/context_length.h"
#include "launch/train/end_tokens.h"
#include "model/generation/decoder_engine.h"
#include "runtime/signals.h"

namespace wuneng {
namespace {

constexpr int64_t kDefaultContext = 4096;

// The last part of the model's path, as it was given.
std::string served_name(const ServeOptions& o) {
  const std::string name =
      o.name.empty() ? std::filesystem::weakly_canonical(o.model).filename().string() : o.name;
  require(find_invalid_utf8(name) == name.size() && !name.empty(),
          "serve: expected a name of UTF-8 for the model, found other bytes; use --name");
  return name;
}

int64_t context_of(const ServeOptions& o, const ModelConfig& config) {
  const int64_t positions = positions_of(config);
  if (!o.context_length) return positions ? std::min(positions, kDefaultContext) : kDefaultContext;
  require(positions == 0 || *o.context_length <= positions,
          "serve: --context-length {}: expected at most {}, the model's max_position_embeddings",
          *o.context_length, positions);
  return *o.context_length;
}

}  // namespace

std::function<void()> prepare_serve(const ServeOptions& o, Device device, const Comm& tp) {
  signals::catch_stops(false);
  const bool leads = tp.rank() == 0;
  const std::string name = served_name(o);
  std::shared_ptr<serving::Server> server;  // on the rank that leads
  if (leads)
    server = std::make_shared<serving::Server>(
        o.host, o.port,
        serving::ServerLimits{.body_bytes = o.max_body_bytes,
                              .connections = o.max_connections,
                              .read = std::chrono::seconds(o.read_timeout),
                              .write = std::chrono::seconds(o.write_timeout),
                              .grace = std::chrono::seconds(o.grace)},
        o.token_file.empty() ? "" : serving::read_bearer_token(o.token_file));
  const auto weights = open_whole_weights(o.model);
  const ModelConfig& config = weights->config();
  const ModelCodec tokenizer = open_codec("serve", o.model, o.tokenizer, o.chat_template, config.vocab_size);
  tokenizer.codec.check_chat_options(o.chat_options);
  const int64_t context = context_of(o, config);
  const auto engine = std::make_shared<DecoderEngine>(
      make_generation_model(*weights, o.weights, device, tp),
      EngineOptions{.max_sequences = o.max_sequences, .context_length = context});
  if (!leads) return [engine] { engine->follow(); };
  const int64_t most_sequences = o.max_sequences + o.max_queue;
  const auto service = std::make_shared<serving::Service>(
      serving::ServedModel{.name = name,
                           .codec = tokenizer.codec,
                           .chat_options = o.chat_options,
                           .vocab_size = config.vocab_size,
                           .context_length = context,
                           .end_tokens = end_tokens(tokenizer.codec, config),
                           .most_sequences = most_sequences},
      serving::tokenizer_info_of(tokenizer.directory, tokenizer.codec), server->metrics());
  return [=, sequences = o.max_sequences] {
    server->run(*service, *engine, most_sequences, [&] {
      std::printf("wuneng: %s is served at %s/v1: %lld sequences at the same time, of at most %lld tokens\n",
                  name.c_str(), server->url().c_str(), static_cast<long long>(sequences),
                  static_cast<long long>(context));
      std::fflush(stdout);
    });
    engine->end_others();
  };
}

}  // namespace wuneng
