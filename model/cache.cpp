#include "model/cache.h"

#include <algorithm>

namespace wuneng {
namespace {

bool consecutive(const std::vector<int64_t>& slots) {
  for (size_t i = 0; i < slots.size(); ++i)
    if (slots[i] != slots[0] + static_cast<int64_t>(i)) return false;
  return !slots.empty();
}

ops::Runs runs_of(const std::vector<int64_t>& slots) {
  ops::Runs runs;
  for (const int64_t slot : slots) runs.push_back({slot, 1});
  return runs;
}

int64_t row_bytes(const CachedTensor& t, DType activations) {
  return element_count(t.row) * size_of(t.kind == CachedTensor::Kind::state ? DType::f32 : activations);
}

}  // namespace

LayerCache::LayerCache(const CachedTensors& tensors, int64_t slots, int64_t capacity, DType activations,
                       Device device) {
  for (const CachedTensor& t : tensors) {
    Shape shape = t.row;
    shape.insert(shape.begin(), t.kind == CachedTensor::Kind::token ? slots * capacity : slots);
    tensors_[t.name] =
        Tensor::empty(shape, t.kind == CachedTensor::Kind::state ? DType::f32 : activations, device);
  }
}

const Tensor& LayerCache::at(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) fail("cache: expected a tensor that the mixer has named, found '{}'", name);
  return found->second;
}

Var LayerCache::append(Tape& tape, const std::string& name, const Var& x,
                       const DocumentLayout& documents) const {
  const Tensor& all = at(name);
  kernels::unpack_rows(
      tape.stream(),
      {.tall = all, .packed = x.value(), .runs = documents.cache_rows, .rows = documents.cache_row_table});
  return Var(all);
}

Var LayerCache::read(Tape& tape, const std::string& name, const CacheSlots& slots) const {
  const Tensor& all = at(name);
  const auto& of = slots.of_documents;
  const int64_t n = static_cast<int64_t>(of.size());
  if (!slots.on_device.defined() && consecutive(of)) return Var(all.rows(of[0], of[0] + n));
  Shape shape = all.shape();
  shape[0] = n;
  const Tensor rows = Tensor::empty(shape, all.dtype(), all.device());
  kernels::pack_rows(tape.stream(),
                     {.tall = all, .packed = rows, .runs = runs_of(of), .rows = slots.on_device});
  return Var(rows);
}

void LayerCache::write(const Stream& stream, const std::string& name, const CacheSlots& slots,
                       const Tensor& rows) const {
  kernels::unpack_rows(
      stream,
      {.tall = at(name), .packed = rows, .runs = runs_of(slots.of_documents), .rows = slots.on_device});
}

void LayerCache::copy(const Stream& stream, const std::string& from, const std::string& to,
                      const Tensor& rows) const {
  kernels::copy_rows(stream, {.from = at(from), .to = at(to), .rows = rows});
}

void LayerCache::begin(const std::string& name, const DocumentLayout& documents, ops::P value) const {
  const Tensor& all = at(name);
  const auto& slots = documents.slots.of_documents;
  for (size_t i = 0; i < slots.size(); ++i) {
    if (documents.starts[i] > 0) continue;
    const Tensor row = all.rows(slots[i], slots[i] + 1);
    if (value)
      row.view(value->var.shape()).copy_from(value->var.value());
    else
      row.zero();
  }
}

SequenceCache::SequenceCache(const std::vector<CachedTensors>& layers, int64_t slots, int64_t capacity,
                             DType activations, Device device)
    : lengths_(slots), capacity_(capacity) {
  for (const CachedTensors& tensors : layers) {
    layers_.emplace_back(tensors, slots, capacity, activations, device);
    for (const CachedTensor& t : tensors)
      (t.kind == CachedTensor::Kind::token ? bytes_per_token_ : bytes_per_sequence_) +=
          row_bytes(t, activations);
  }
}

Continuation SequenceCache::continuation(const std::vector<int64_t>& documents,
                                         const std::vector<int64_t>& slots) const {
  WUNENG_ASSERT(documents.size() == slots.size() + 1);
  Continuation out{slots, {}, capacity_};
  for (size_t i = 0; i < slots.size(); ++i) {
    const int64_t slot = slots[i], count = documents[i + 1] - documents[i];
    require(slot >= 0 && slot < this->slots() && std::count(slots.begin(), slots.end(), slot) == 1,
            "cache: expected different slots from 0 to {}, found {}", this->slots() - 1, slot);
    require(lengths_[slot] + count <= capacity_,
            "cache: slot {}: expected at most {} tokens, found {} and {} new ones", slot, capacity_,
            lengths_[slot], count);
    out.starts.push_back(lengths_[slot]);
  }
  return out;
}

void SequenceCache::advance(const std::vector<int64_t>& documents, const std::vector<int64_t>& slots) {
  for (size_t i = 0; i < slots.size(); ++i) lengths_[slots[i]] += documents[i + 1] - documents[i];
}

TokenShift::TokenShift(Tape& tape, const Var& x, const DocumentLayout& documents, const LayerCache* cache)
    : documents_(documents), cached_(cache), rows_(x) {
  if (!cache) return;
  const std::string name = token_before(x.dim(1)).name;
  cache->begin(name, documents, nullptr);
  const Var before = cache->read(tape, name, documents.slots);
  rows_ = ops::pack_rows(tape, ops::join_rows(tape, {before, x}), documents.with_before);
  const Var last = ops::pack_rows(tape, x, documents.last_rows);
  cache->write(tape.stream(), name, documents.slots, last.value());
}

Var TokenShift::operator()(Tape& tape, ops::P mu) const {
  const Var y = ops::token_shift(
      tape, rows_, mu, cached_ ? documents_.boundaries_with_before : documents_.document_boundaries);
  return cached_ ? ops::pack_rows(tape, y, documents_.without_before) : y;
}

}  // namespace wuneng
