// What layers keep of sequences that are continued: keys and values of every token, and of each sequence its
// states and its last token's input. Sequences have slots of a fixed number and length, so that memory is
// known before the first token.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "model/document_layout.h"
#include "model/operators.h"

namespace wuneng {

// One tensor of a layer's cache, which the layer's mixer names (Mixer::cache).
struct CachedTensor {
  enum class Kind {
    token,     // a row for each token of a sequence, of the activations' type
    sequence,  // a row for each sequence, of the activations' type
    state      // a row for each sequence, f32
  };
  std::string name;
  Kind kind;
  Shape row;
};
using CachedTensors = std::vector<CachedTensor>;

class LayerCache {
 public:
  LayerCache(const CachedTensors& tensors, int64_t slots, int64_t capacity, DType activations, Device device);

  // Keeps x [T, row], the new tokens' rows, and returns the rows of all slots [slots * capacity, row], in
  // which DocumentLayout::attention finds its keys.
  Var append(Tape& tape, const std::string& name, const Var& x, const DocumentLayout& documents) const;
  // The rows of these sequences [documents, row]; may be a view of the cache.
  Var read(Tape& tape, const std::string& name, const CacheSlots& slots) const;
  void write(const Stream& stream, const std::string& name, const CacheSlots& slots,
             const Tensor& rows) const;
  // Sequences' rows of one tensor to another of their shape: kernels::CopyRowsArgs::rows.
  void copy(const Stream& stream, const std::string& from, const std::string& to, const Tensor& rows) const;
  // The row of each document's sequence that begins now: `value`, or zero where that is null.
  void begin(const std::string& name, const DocumentLayout& documents, ops::P value) const;

 private:
  const Tensor& at(const std::string& name) const;
  std::map<std::string, Tensor> tensors_;
};

class SequenceCache {
 public:
  // layers: what each layer keeps. capacity: the most tokens of a sequence.
  SequenceCache(const std::vector<CachedTensors>& layers, int64_t slots, int64_t capacity, DType activations,
                Device device);

  int64_t slots() const { return static_cast<int64_t>(lengths_.size()); }
  int64_t capacity() const { return capacity_; }
  int64_t length(int64_t slot) const { return lengths_.at(slot); }  // tokens that the layers have seen
  void clear(int64_t slot) { lengths_.at(slot) = 0; }
  LayerCache* layer(size_t i) { return &layers_.at(i); }

  // Where documents [0, .., T] of new tokens, document i of the sequence in slots[i], continue. Throws where
  // a slot does not exist, is named twice, or has no room for them.
  Continuation continuation(const std::vector<int64_t>& documents, const std::vector<int64_t>& slots) const;
  void advance(const std::vector<int64_t>& documents, const std::vector<int64_t>& slots);

  int64_t bytes_per_token() const { return bytes_per_token_; }
  int64_t bytes_per_sequence() const { return bytes_per_sequence_; }  // besides those of its tokens
  int64_t bytes() const { return slots() * (bytes_per_sequence_ + capacity_ * bytes_per_token_); }

 private:
  std::vector<LayerCache> layers_;
  std::vector<int64_t> lengths_;
  int64_t capacity_, bytes_per_token_ = 0, bytes_per_sequence_ = 0;
};

// x + (x_{t-1} - x_t) mu for several mu (docs/model.md, "state inputs"), where the token before a document's
// first one is what the cache keeps of its sequence.
class TokenShift {
 public:
  // x [T, C]. cache: null, or a layer's with a tensor kTokenBefore, which gets the documents' last rows.
  TokenShift(Tape& tape, const Var& x, const DocumentLayout& documents, const LayerCache* cache);
  Var operator()(Tape& tape, ops::P mu) const;  // [T, C]

 private:
  const DocumentLayout& documents_;
  bool cached_;
  Var rows_;  // x, with a row before each document where there is a cache
};
inline CachedTensor token_before(int64_t channels) {
  return {"token_before", CachedTensor::Kind::sequence, {channels}};
}

}  // namespace wuneng
