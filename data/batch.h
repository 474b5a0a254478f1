// Micro-batches: a corpus cut into windows, shuffled anew every epoch, each a pure function of its number.
//
// L rows a window, B windows a micro-batch. Micro-batch number (step * accumulation + k) * dp + dp_rank is
// the caller's; the number alone decides the content, so a run resumes from its step and another layout of
// ranks trains on the same data in the same order.
#pragma once
#include "data/corpus.h"

namespace wuneng {

// B sequences of L rows, flattened: R = B * L.
struct Batch {
  int64_t tokens_count = 0;     // R
  std::vector<int32_t> tokens;  // [R]
  std::vector<int32_t> labels;  // [R] next token or kNoLabel
  // First row of each document, then R: [0, 512, 700, 1024]. A sequence's start is a document's.
  std::vector<int64_t> documents;
};

struct BatchOptions {
  int64_t seq_len = 0;      // L
  int64_t micro_batch = 1;  // B, in sequences
  uint64_t seed = 0;        // of the order of windows
};

// Window w of a stream is its rows [w L, (w + 1) L); the label of the last row looks into the next window.
// The stream's end is padded with rows that have no label.
class BatchSource {
 public:
  // The corpus must outlive the source.
  BatchSource(const Corpus& corpus, const BatchOptions& options);

  // Training micro-batch: windows [index B, (index + 1) B) of the endless sequence of epochs, each a
  // permutation of all windows.
  Batch get(int64_t micro_batch_index) const;
  int64_t windows() const { return windows(Split::train); }  // an epoch's

  // The held-out windows in order. Numbers from held_out_count() on give padding only, so that ranks may
  // share them out evenly.
  Batch held_out(int64_t index) const;
  int64_t held_out_count() const;

 private:
  int64_t windows(Split split) const;
  void append(Batch& batch, Split split, int64_t window) const;

  const Corpus& corpus_;
  BatchOptions options_;
};

}  // namespace wuneng
