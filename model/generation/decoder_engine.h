// GenerationEngine of a Decoder: requests wait for a slot of the cache; each step runs a chunk of one
// prompt and a token of every sequence whose prompt is through (continuous batching).
#pragma once
#include <deque>
#include <map>
#include <memory>

#include "model/generation/decoder_ranks.h"
#include "model/generation/engine.h"
#include "model/generation/sampler.h"

namespace wuneng {

struct EngineOptions {
  int64_t max_sequences = 16;     // that run at the same time
  int64_t context_length = 4096;  // the most tokens of one of them
  int64_t prefill_chunk = 512;    // tokens of a prompt in one step
};

class DecoderEngine : public GenerationEngine {
 public:
  // A model of one stage, on all ranks of its tensor-parallel group with equal options. Rank 0 has the
  // requests; the others call follow(). Throws for options out of range.
  DecoderEngine(std::shared_ptr<Decoder> model, const EngineOptions& options);

  // Until rank 0 calls end_others(). It may have requests again after that, when they follow again.
  void follow() { ranks_.follow(); }
  void end_others() { ranks_.end_others(); }

  int64_t vocab_size() const override { return ranks_.config().vocab_size; }
  int64_t context_length() const override { return options_.context_length; }
  void add(int64_t number, const GenerationRequest& request) override;
  void cancel(int64_t number) override;
  bool idle() const override { return waiting_.empty() && running_.empty(); }
  std::vector<GenerationEvent> step() override;

  const SequenceCache& cache() const { return ranks_.cache(); }

 private:
  struct Sequence {
    int64_t number;
    GenerationRequest request;
    Sampler sampler;
    int64_t slot = -1;
    int64_t generated = 0;
    int32_t last = 0;                             // the token that goes into the model next
    std::vector<ScoredToken> prompt_scores = {};  // of the prompt's tokens so far
  };
  using Running = std::map<int64_t, std::unique_ptr<Sequence>>;  // by slot

  void admit();
  bool in_prompt(const Sequence& s) const;
  void prefill(Sequence& s, std::vector<GenerationEvent>& events);
  void decode(const std::vector<Sequence*>& sequences, std::vector<GenerationEvent>& events);
  // Chooses a token from logits [vocab] of the sequence's last token.
  void choose(Sequence& s, const float* logits, std::vector<ScoredToken> prompt,
              std::vector<GenerationEvent>& events);
  void release(int64_t slot);

  EngineOptions options_;
  DecoderRanks ranks_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  Running running_;
};

}  // namespace wuneng
