// Micro-batches: corpora packed into sequences (packing.h), mixed by weight (mixture.h) and shuffled in every
// epoch. A micro-batch is a pure function of its index.
//
// Sequences of L rows are numbered over the whole run; a micro-batch is B consecutive numbers. The number
// determines the content, so teacher and student need no communication, a run resumes from a number, and
// another layout trains on the same data in the same order.
#pragma once
#include "data/batches/corpus.h"
#include "data/batches/mixture.h"
#include "data/batches/packing.h"
#include "runtime/micro_batch.h"

namespace wuneng {

struct BatchOptions {
  int64_t seq_len = 0;      // L
  int64_t micro_batch = 1;  // B, in sequences
  uint64_t seed = 0;        // of the order of sequences
  PackingRule packing = PackingRule::windows;
};

// A corpus and its sampling weight.
struct WeightedCorpus {
  const Corpus* corpus;
  double weight = 1;
};

// A row whose next token is in another sequence still has that token as its label. The end of a sequence is
// padded with rows without a label. A document begins at the start of every sequence. With PackingRule::pairs
// the corpora must be of pairs (pair_corpus.h).
class BatchSource {
 public:
  // The corpora must outlive the source.
  BatchSource(const Corpus& corpus, const BatchOptions& options);
  BatchSource(const std::vector<WeightedCorpus>& corpora, const BatchOptions& options);

  // Training sequences [first_sequence, first_sequence + B) of the infinite sequence. Each corpus has its own
  // epochs, each a permutation of all its sequences.
  MicroBatch at(int64_t first_sequence) const;
  MicroBatch get(int64_t micro_batch_index) const { return at(micro_batch_index * options_.micro_batch); }

  // Held-out micro-batches, with the sequences of all corpora in proportion. Indices from held_out_count() on
  // are padding only, so that every rank may get the same number.
  MicroBatch held_out(int64_t index) const;
  int64_t held_out_count() const;

  int64_t epoch_sequences(size_t corpus = 0) const { return sources_[corpus].train.sequences(); }
  // Sequences [first, first + B) of one corpus and split in the order of its plan; padding from
  // plan().sequences() on.
  MicroBatch in_order(size_t corpus, Split split, int64_t first) const;

  double packing_efficiency(size_t corpus = 0) const { return sources_[corpus].train.efficiency(); }
  const PackingPlan& plan(Split split, size_t corpus = 0) const {
    return split == Split::train ? sources_[corpus].train : sources_[corpus].held_out;
  }
  // Equal if the order of sequences and their content are equal. It depends on corpora, weights and options,
  // not on B.
  uint64_t fingerprint() const;

 private:
  struct Source {
    const Corpus* corpus;
    PackingPlan train, held_out;
  };
  MicroBatch empty() const;
  // Writes one sequence to the `position`-th L rows of a micro-batch.
  void write(MicroBatch& batch, int64_t position, size_t source, Split split, int64_t sequence) const;

  std::vector<Source> sources_;
  std::vector<double> weights_;
  BatchOptions options_;
  Mixture mixture_, held_out_mixture_;
  int64_t held_out_sequences_ = 0;
};

// The sequences that a data-parallel replica trains on: micro-batches are assigned to the replicas
// round-robin. A run that resumes with another layout starts at the sequence where the previous one stopped,
// also within an epoch.
struct StepOrder {
  int64_t micro_batch = 1, accumulation = 1, dp = 1;
  int64_t first_step = 0, first_sequence = 0;  // of the run with this layout

  int64_t sequence(int64_t step, int64_t m, int64_t dp_rank) const {
    return first_sequence + (((step - first_step) * accumulation + m) * dp + dp_rank) * micro_batch;
  }
  int64_t seen_before(int64_t step) const { return sequence(step, 0, 0); }
};

}  // namespace wuneng
