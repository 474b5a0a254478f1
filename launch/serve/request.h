// Bodies of requests: JSON of OpenAI's forms, checked against the model that is served. A member that is
// unknown, or that asks for what is not there, is refused by name: it would change the answer.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer/text_codec.h"
#include "model/generation/engine.h"

namespace wuneng::serving {

struct ServedModel {
  std::string name;  // what requests call it
  TextCodec codec;
  ChatOptions chat_options = {};  // where a request says nothing else
  int64_t vocab_size = 0, context_length = 0;
  std::vector<int32_t> end_tokens;
  int64_t most_sequences = 0;  // of one request: prompts times choices
};

// A request for completions, of prompts or of a chat.
struct CompletionCall {
  bool chat = false;
  bool stream = false, include_usage = false;
  bool echo = false;                          // the prompt's text begins the answer
  int64_t logprobs = -1;                      // the most probable tokens of each; -1: no log-probabilities
  int64_t choices = 1;                        // of each prompt
  std::vector<std::vector<int32_t>> prompts;  // tokens
  std::vector<size_t> added;                  // of each prompt, the first tokens, which its text has not
  int64_t max_tokens = 0;
  std::vector<std::string> stops;
  Sampling sampling;  // of a prompt's first choice; the next one has the next seed
};

// All throw an Error, or an HttpError where another status than 400 or the name of a member is known.
CompletionCall read_completion_call(std::string_view body, const ServedModel& model);
CompletionCall read_chat_call(std::string_view body, const ServedModel& model);
// {"prompt": text} -> tokens.
std::vector<int32_t> read_tokenize_call(std::string_view body, const ServedModel& model);
// {"tokens": [ids]}.
std::vector<int32_t> read_detokenize_call(std::string_view body, const ServedModel& model);

}  // namespace wuneng::serving
