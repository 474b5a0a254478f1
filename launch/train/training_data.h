// The micro-batches of a run: what pass, micro-batch and replica stand for in the data, and how a rank gets
// them before it needs them.
//
// No rank sends another any of it: the sources, the recipe and where the run starts decide every
// micro-batch, so student and teacher ranks read the same tokens, each for itself.
#pragma once
#include <memory>

#include "data/batches/batch.h"
#include "data/batches/prefetch.h"
#include "data/batches/token_corpus.h"
#include "launch/train/recipe.h"
#include "launch/train/run_plan.h"
#include "parallel/stream_plan.h"

namespace wuneng {

// Where a run stands in its data: training steps done, and the sequences they have taken. Part of a
// checkpoint.
struct DataCursor {
  int64_t step = 0, sequence = 0;
};

class TrainingData {
 public:
  // Opens the sources and plans the packing; errors name the recipe's key. Data that cannot be trained or
  // evaluated on as the recipe says is an error here: tokens beyond the vocabulary, too few tokens for one
  // sequence, nothing with a loss.
  explicit TrainingData(const TrainRecipe& recipe, CheckShare share = {});
  // The run resumes from a checkpoint, maybe with another number of replicas or sequences a micro-batch.
  void resume_at(const DataCursor& cursor);

  MicroBatch batch(const Pass& pass, int micro_batch, int dp_rank) const;
  // The number of its first sequence, of the training or the held-out data.
  int64_t first_sequence(const Pass& pass, int micro_batch, int dp_rank) const;
  const std::vector<Pass>& passes() const { return passes_; }
  DataCursor cursor(int64_t step) const { return {step, order_.seen_before(step)}; }
  size_t sources() const { return corpora_.size(); }
  const Corpus& corpus(size_t source) const { return *corpora_[source]; }
  const BatchSource& batches() const { return *batches_; }
  // What made the tokens (TextCodec::name()); empty: not known.
  std::string tokenizer() const;
  // Equal where sequence numbers mean the same tokens.
  std::string fingerprint() const;
  // A line for each source: what is in it, and how well it packs; one for what was left out of it.
  std::vector<std::string> summary() const;

 private:
  void require_room(const TrainRecipe& recipe) const;  // for every pair
  void require_tokenizer_of_student(const TrainRecipe& recipe) const;

  std::vector<DataSource> sources_;
  std::vector<std::unique_ptr<Corpus>> corpora_;
  std::unique_ptr<BatchSource> batches_;
  std::vector<Pass> passes_;
  StepOrder order_;
  int64_t held_out_;  // micro-batches of an evaluation
  int64_t seq_len_, held_out_every_;
};

// A rank's micro-batches pass by pass, made two passes ahead on other threads, so that all of the next one
// is there when its step begins.
class PassReader {
 public:
  // Which micro-batches of a pass this rank works on, in order; called on those threads.
  using Items = std::function<std::vector<StreamItem>(int64_t pass)>;
  PassReader(const TrainingData& data, int64_t first_pass, int threads, Items items);

  std::vector<MicroBatch> next() { return ahead_.next(); }
  double seconds_waited() const { return ahead_.seconds_waited(); }

 private:
  Prefetcher<std::vector<MicroBatch>> ahead_;
};

}  // namespace wuneng
