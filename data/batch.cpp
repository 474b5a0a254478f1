#include "data/batch.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>

#include "runtime/error.h"

namespace wuneng {
namespace {

// The image of i under a permutation of [0, n) that `key` picks: a Feistel network over the next even number
// of bits, walked until it lands below n (under 4 steps on average). No list of n windows to make and keep at
// each epoch.
uint64_t permute(uint64_t i, uint64_t n, uint64_t key) {
  const int half = (std::bit_width(n - 1) + 1) / 2;
  const uint64_t mask = (uint64_t{1} << half) - 1;
  do {
    uint64_t left = i >> half, right = i & mask;
    for (uint64_t round = 0; round < 6; ++round) {
      const uint64_t mixed[] = {round, right};
      left ^= XXH3_64bits_withSeed(mixed, sizeof mixed, key) & mask;
      std::swap(left, right);
    }
    i = left << half | right;
  } while (i >= n);
  return i;
}

}  // namespace

BatchSource::BatchSource(const Corpus& corpus, const BatchOptions& options)
    : corpus_(corpus), options_(options) {
  require(options.seq_len > 0 && options.micro_batch > 0,
          "data: seq_len = {} and micro_batch = {}: expected both > 0", options.seq_len, options.micro_batch);
  require(windows() > 0, "data: expected at least 2 tokens to train on, found {}", corpus.size(Split::train));
}

int64_t BatchSource::windows(Split split) const {
  // A last row alone would have no label.
  return (std::max<int64_t>(corpus_.size(split) - 1, 0) + options_.seq_len - 1) / options_.seq_len;
}

int64_t BatchSource::held_out_count() const {
  return (windows(Split::held_out) + options_.micro_batch - 1) / options_.micro_batch;
}

Batch BatchSource::get(int64_t micro_batch_index) const {
  WUNENG_ASSERT(micro_batch_index >= 0);
  Batch batch;
  for (int64_t b = 0; b < options_.micro_batch; ++b) {
    const int64_t sequence = micro_batch_index * options_.micro_batch + b;
    const uint64_t epoch = sequence / windows(),
                   key = XXH3_64bits_withSeed(&epoch, sizeof epoch, options_.seed);
    append(batch, Split::train, static_cast<int64_t>(permute(sequence % windows(), windows(), key)));
  }
  batch.documents.push_back(batch.tokens_count);
  return batch;
}

Batch BatchSource::held_out(int64_t index) const {
  WUNENG_ASSERT(index >= 0);
  Batch batch;
  for (int64_t b = 0; b < options_.micro_batch; ++b)
    append(batch, Split::held_out, index * options_.micro_batch + b);
  batch.documents.push_back(batch.tokens_count);
  return batch;
}

void BatchSource::append(Batch& batch, Split split, int64_t window) const {
  const int64_t L = options_.seq_len, begin = batch.tokens_count, size = corpus_.size(split);
  const int64_t first = std::min(window * L, size), rows = std::min(L, size - first);
  const Sample sample = corpus_.read(split, first, rows);
  batch.tokens.insert(batch.tokens.end(), sample.tokens.begin(), sample.tokens.end());
  batch.labels.insert(batch.labels.end(), sample.labels.begin(), sample.labels.end());
  for (const int64_t row : sample.document_begin) batch.documents.push_back(begin + row);
  if (rows < L) batch.documents.push_back(begin + rows);  // the padding: a document of its own
  batch.tokens_count += L;
  batch.tokens.resize(batch.tokens_count, 0);
  batch.labels.resize(batch.tokens_count, kNoLabel);
}

}  // namespace wuneng
