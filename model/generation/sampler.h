// Choosing a token from logits, and log-probabilities.
#pragma once
#include <random>

#include "model/generation/engine.h"

namespace wuneng {

// Throws where an option is out of its range; `where` begins the message.
void check_sampling(const Sampling& sampling, const std::string& where);

class Sampler {
 public:
  // The tokens of `before` are penalised as those that it chooses.
  Sampler(const Sampling& sampling, const std::vector<int32_t>& before, int64_t vocab);
  int32_t operator()(const float* logits);  // [vocab]

 private:
  int32_t draw(const float* logits);
  Sampling sampling_;
  int64_t vocab_;
  std::mt19937_64 random_;
  std::vector<bool> used_;                          // [vocab]
  std::vector<float> penalised_;                    // [vocab]
  std::vector<std::pair<float, int32_t>> allowed_;  // scratch: logits and tokens
};

// The log-probability of `token`, and the n most probable tokens, ties by the lower token.
ScoredToken score(const float* logits, int64_t vocab, int32_t token, int64_t n);

}  // namespace wuneng
