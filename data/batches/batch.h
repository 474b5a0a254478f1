// Micro-batches: corpora cut into sequences (data/batches/packing.h), mixed by weight
// (data/batches/mixture.h), shuffled anew every epoch, each a pure function of its number.
//
// Sequences of L rows are numbered from the run's first on; a micro-batch is B numbers in a row. The number
// alone decides the content, so teacher and student agree without a word, a run resumes from its number, and
// another layout of ranks trains on the same data in the same order.
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

// A corpus and its share of the sequences.
struct WeightedCorpus {
  const Corpus* corpus;
  double weight = 1;
};

// Rows of a sequence keep their label where the next row of their document is in another sequence; what is
// left of a sequence is padded with rows that have no label. The start of a sequence is the start of a
// document.
class BatchSource {
 public:
  // The corpora must outlive the source.
  BatchSource(const Corpus& corpus, const BatchOptions& options);
  BatchSource(const std::vector<WeightedCorpus>& corpora, const BatchOptions& options);

  // Training sequences first_sequence ... + B of the endless order. Each corpus goes through epochs of its
  // own, each a permutation of all its sequences.
  MicroBatch at(int64_t first_sequence) const;
  MicroBatch get(int64_t micro_batch_index) const { return at(micro_batch_index * options_.micro_batch); }

  // The held-out sequences, all corpora's in proportion from the first on. Numbers from held_out_count() on
  // give padding only, so that ranks may share them out evenly.
  MicroBatch held_out(int64_t index) const;
  int64_t held_out_count() const;

  int64_t epoch_sequences(size_t corpus = 0) const { return sources_[corpus].train.sequences(); }
  double packing_efficiency(size_t corpus = 0) const { return sources_[corpus].train.efficiency(); }
  // Equal where the order and its content are: corpora, weights and options, but not B, which moves no
  // sequence.
  uint64_t fingerprint() const;

 private:
  struct Source {
    const Corpus* corpus;
    PackingPlan train, held_out;
  };
  MicroBatch empty() const;
  // Writes one sequence to the `position`-th L rows of a micro-batch.
  void write(MicroBatch& batch, int64_t position, const Source& source, Split split, int64_t sequence) const;

  std::vector<Source> sources_;
  std::vector<double> weights_;
  BatchOptions options_;
  Mixture mixture_, held_out_mixture_;
  int64_t held_out_sequences_ = 0;
};

// Which sequences a replica trains on: micro-batch after micro-batch, dealt to the replicas in turn. A run
// that goes on under another layout begins at the sequence where the one before stopped, in the middle of an
// epoch or not.
struct StepOrder {
  int64_t micro_batch = 1, accumulation = 1, dp = 1;
  int64_t first_step = 0, first_sequence = 0;  // where this layout took over

  int64_t sequence(int64_t step, int64_t m, int64_t dp_rank) const {
    return first_sequence + (((step - first_step) * accumulation + m) * dp + dp_rank) * micro_batch;
  }
  int64_t seen_before(int64_t step) const { return sequence(step, 0, 0); }
};

}  // namespace wuneng
