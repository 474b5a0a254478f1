#include "data/batches/batch.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>

#include "runtime/error.h"

namespace wuneng {
namespace {

// The image of i under a pseudo-random permutation of [0, n) with the given key: a Feistel network over the
// next even number of bits with cycle walking (under 4 steps on average). Needs no table of n entries per
// epoch.
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
    : BatchSource(std::vector<WeightedCorpus>{{&corpus, 1}}, options) {}

BatchSource::BatchSource(const std::vector<WeightedCorpus>& corpora, const BatchOptions& options)
    : options_(options), mixture_({}), held_out_mixture_({}) {
  require(options.seq_len > 0 && options.micro_batch > 0,
          "data: seq_len = {} and micro_batch = {}: expected both > 0", options.seq_len, options.micro_batch);
  require(!corpora.empty(), "data: expected at least one corpus, found none");
  std::vector<uint64_t> held_out;
  for (const auto& [corpus, weight] : corpora) {
    require(corpus->size(Split::train) > 1,
            "data: corpus {}: expected at least 2 tokens to train on, found {}", sources_.size(),
            corpus->size(Split::train));
    sources_.push_back({corpus, PackingPlan(*corpus, Split::train, options.packing, options.seq_len),
                        PackingPlan(*corpus, Split::held_out, options.packing, options.seq_len)});
    require(sources_.back().train.sequences() > 0,
            "data: corpus {}: expected a pair of at most seq_len = {} tokens to train on, found none",
            sources_.size() - 1, options.seq_len);
    weights_.push_back(weight);
    held_out.push_back(static_cast<uint64_t>(sources_.back().held_out.sequences()));
    held_out_sequences_ += sources_.back().held_out.sequences();
  }
  mixture_ = Mixture::of_weights(weights_);
  held_out_mixture_ = Mixture(held_out);
}

int64_t BatchSource::held_out_count() const {
  return (held_out_sequences_ + options_.micro_batch - 1) / options_.micro_batch;
}

MicroBatch BatchSource::empty() const {
  const int64_t T = options_.micro_batch * options_.seq_len;
  return {Tensor::empty({T}, DType::i32), Tensor::empty({T}, DType::i32), {}};
}

MicroBatch BatchSource::at(int64_t first_sequence) const {
  WUNENG_ASSERT(first_sequence >= 0);
  MicroBatch batch = empty();
  for (int64_t b = 0; b < options_.micro_batch; ++b) {
    const Draw draw = mixture_.at(first_sequence + b);
    const Source& source = sources_[draw.source];
    const uint64_t n = source.train.sequences(), epoch = draw.number / n,
                   seed = options_.seed + static_cast<uint64_t>(draw.source) * 0x9e3779b97f4a7c15u,
                   key = XXH3_64bits_withSeed(&epoch, sizeof epoch, seed);
    write(batch, b, static_cast<size_t>(draw.source), Split::train,
          static_cast<int64_t>(permute(draw.number % n, n, key)));
  }
  batch.documents.push_back(batch.rows());
  return batch;
}

MicroBatch BatchSource::held_out(int64_t index) const {
  WUNENG_ASSERT(index >= 0);
  MicroBatch batch = empty();
  for (int64_t b = 0; b < options_.micro_batch; ++b) {
    const int64_t number = index * options_.micro_batch + b;
    const bool any = number < held_out_sequences_;
    const Draw draw = any ? held_out_mixture_.at(number) : Draw{0, sources_[0].held_out.sequences()};
    write(batch, b, static_cast<size_t>(draw.source), Split::held_out, draw.number);
  }
  batch.documents.push_back(batch.rows());
  return batch;
}

MicroBatch BatchSource::in_order(size_t corpus, Split split, int64_t first) const {
  MicroBatch batch = empty();
  for (int64_t b = 0; b < options_.micro_batch; ++b) write(batch, b, corpus, split, first + b);
  batch.documents.push_back(batch.rows());
  return batch;
}

uint64_t BatchSource::fingerprint() const {
  std::vector<uint64_t> parts = {static_cast<uint64_t>(options_.seq_len), options_.seed,
                                 static_cast<uint64_t>(options_.packing)};
  for (size_t i = 0; i < sources_.size(); ++i)
    parts.insert(parts.end(), {sources_[i].corpus->fingerprint(), std::bit_cast<uint64_t>(weights_[i])});
  return XXH3_64bits(parts.data(), parts.size() * sizeof parts[0]);
}

void BatchSource::write(MicroBatch& batch, int64_t position, size_t corpus, Split split,
                        int64_t sequence) const {
  const Source& source = sources_[corpus];
  const PackingPlan& plan = split == Split::train ? source.train : source.held_out;
  int32_t *const tokens = batch.tokens.data<int32_t>(), *const labels = batch.labels.data<int32_t>();
  int64_t row = position * options_.seq_len;
  const int64_t end = row + options_.seq_len;
  for (const Piece& piece : plan.pieces(sequence)) {
    const Sample sample = source.corpus->read(split, piece.row, piece.rows);
    std::copy(sample.tokens.begin(), sample.tokens.end(), tokens + row);
    std::copy(sample.labels.begin(), sample.labels.end(), labels + row);
    batch.origins.push_back({static_cast<int>(corpus), split == Split::held_out, piece.row, piece.rows, row});
    if (options_.packing == PackingRule::pairs) {
      WUNENG_ASSERT(sample.document_begin.size() == 2);
      batch.pairs.push_back(static_cast<int64_t>(batch.documents.size()));
    }
    for (const int64_t begin : sample.document_begin) batch.documents.push_back(row + begin);
    row += piece.rows;
  }
  if (row < end) batch.documents.push_back(row);  // padding: a document of its own
  std::fill(tokens + row, tokens + end, 0);
  std::fill(labels + row, labels + end, kNoLabel);
}

}  // namespace wuneng
