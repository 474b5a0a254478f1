// Generation: requests for the continuation of token sequences, many at a time, and what comes of them token
// by token. Text, stop strings and chat templates are above this (launch/).
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

namespace wuneng {

// How a token is chosen from logits, in this order: repetition penalty, temperature, top-k, top-p, min-p.
struct Sampling {
  double temperature = 1;         // 0: the most probable token
  int64_t top_k = 0;              // keeps the k most probable tokens; 0: all
  double top_p = 1;               // keeps the most probable tokens whose probabilities sum to top_p
  double min_p = 0;               // drops tokens less probable than min_p times the most probable one
  double repetition_penalty = 1;  // divides positive and multiplies negative logits of tokens that have been
  uint64_t seed = 0;              // a request's tokens depend on it alone, not on what runs at the same time
};

struct GenerationRequest {
  std::vector<int32_t> prompt;  // at least one token
  int64_t max_tokens = 16;      // 0: the prompt is scored only
  Sampling sampling = {};
  std::vector<int32_t> end_tokens = {};  // one of them ends the request; it is returned
  // Of each token its log-probability under the model (temperature 1, nothing dropped) and the n most
  // probable tokens; -1: neither.
  int64_t logprobs = -1;
  bool prompt_logprobs = false;  // also those of the prompt's tokens; the first has none
};

struct ScoredToken {
  int32_t token = 0;
  float logprob = 0;                                // natural logarithm
  std::vector<std::pair<int32_t, float>> top = {};  // the most probable tokens first
};

enum class Finish { none, end_token, length };  // length: max_tokens, or the engine's context_length

struct GenerationEvent {
  int64_t request = 0;
  std::vector<ScoredToken> prompt = {};  // once, before the first token, where prompt_logprobs was asked for
  std::optional<ScoredToken> token = {};
  Finish finish = Finish::none;  // not none: the last event of this request
};

class GenerationEngine {
 public:
  virtual ~GenerationEngine() = default;
  virtual int64_t vocab_size() const = 0;
  virtual int64_t context_length() const = 0;  // the most tokens of one sequence, prompt included
  // Queues a request under the caller's number. Throws for tokens beyond the vocabulary, an empty prompt, a
  // prompt longer than context_length, options out of range, and a number that is in use.
  virtual void add(int64_t number, const GenerationRequest& request) = 0;
  virtual void cancel(int64_t number) = 0;  // no more events of it; nothing where it has finished
  virtual bool idle() const = 0;            // no request is queued or running
  // Does some work for all running requests (a chunk of prompts, or a token each) and returns what came of
  // it. Waits for nothing.
  virtual std::vector<GenerationEvent> step() = 0;
};

}  // namespace wuneng
