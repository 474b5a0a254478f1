// The micro-batches of a run: what round, micro-batch and replica stand for in the corpus.
#pragma once
#include <memory>

#include "data/batch.h"
#include "launch/rounds.h"
#include "launch/train_recipe.h"
#include "parallel/stage.h"

namespace wuneng {

class TrainingData {
 public:
  explicit TrainingData(const TrainRecipe& recipe);
  MicroBatch micro_batch(const Round& round, int micro_batch, int dp_rank) const;
  const std::vector<Round>& rounds() const { return rounds_; }
  std::string fingerprint() const;
  int64_t windows() const { return source_->windows(); }

 private:
  std::unique_ptr<Corpus> corpus_;
  std::unique_ptr<BatchSource> source_;
  std::vector<Round> rounds_;
  int64_t accumulation_, dp_;
};

}  // namespace wuneng
