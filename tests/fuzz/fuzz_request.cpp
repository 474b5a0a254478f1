// Bodies of requests to a server. The first byte says which kind. A body may be taken or refused by an Error;
// what is taken must be within what the model and the engine allow.
#include "launch/serve/request.h"
#include "tests/fuzz/fuzz.h"

using namespace wuneng;
using namespace wuneng::serving;

namespace {

void require_true(bool condition) {
  if (!condition) std::abort();
}

void check(const CompletionCall& call, const ServedModel& model) {
  require_true(!call.prompts.empty() && call.choices >= 1 && call.logprobs >= -1 && call.max_tokens >= 0);
  require_true(std::ssize(call.prompts) * call.choices <= model.most_sequences);
  for (const std::vector<int32_t>& prompt : call.prompts) {
    require_true(!prompt.empty() && std::ssize(prompt) + call.max_tokens <= model.context_length);
    for (const int32_t token : prompt) require_true(token >= 0 && token < model.vocab_size);
  }
  for (const std::string& stop : call.stops) require_true(!stop.empty());
  const Sampling& s = call.sampling;
  require_true(s.temperature >= 0 && s.top_k >= 0 && s.top_p > 0 && s.top_p <= 1 && s.min_p >= 0 &&
               s.min_p <= 1 && s.repetition_penalty > 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const ServedModel model = {.name = "m",
                                    .codec = TextCodec::load(WUNENG_GOLDEN "/tokenizer", "Qwen2.5"),
                                    .vocab_size = 720,
                                    .context_length = 2000,
                                    .most_sequences = 64};
  fuzz::Input input(data, size);
  const int kind = input.byte() % 4;
  try {
    if (kind == 0)
      check(read_completion_call(input.rest(), model), model);
    else if (kind == 1)
      check(read_chat_call(input.rest(), model), model);
    else
      for (const int32_t id :
           kind == 2 ? read_tokenize_call(input.rest(), model) : read_detokenize_call(input.rest(), model))
        require_true(id >= 0 && id < model.vocab_size);
  } catch (const Error& e) {
    require_true(e.what()[0] != '\0');
  }
  return 0;
}
