#include "model/document_layout.h"

#include <algorithm>

#include "kernels/channel.h"
#include "kernels/rope.h"

namespace wuneng {

namespace {

// The bits of TokenShiftArgs::document_boundaries.
Tensor boundaries_of(const std::vector<int64_t>& documents, Device device) {
  const Tensor bits = Tensor::zeros({documents.back()}, DType::i32);
  for (size_t d = 0; d + 1 < documents.size(); ++d) {
    bits.data<int32_t>()[documents[d]] |= kernels::kDocumentBegins;
    bits.data<int32_t>()[documents[d + 1] - 1] |= kernels::kDocumentEnds;
  }
  return bits.to(device);
}

}  // namespace

DocumentLayout DocumentLayout::make(const std::vector<int64_t>& documents, int64_t chunk, Device device,
                                    const Continuation* continuation) {
  WUNENG_ASSERT(documents.size() >= 2 && documents.front() == 0);
  DocumentLayout p;
  p.documents = documents;
  p.rows = documents.back();
  p.positions = Tensor::empty({p.rows}, DType::i32);
  for (size_t d = 0; d + 1 < documents.size(); ++d) {
    const int64_t begin = documents[d], count = documents[d + 1] - begin;
    WUNENG_ASSERT(count > 0);
    const int64_t start = continuation ? continuation->starts[d] : 0;
    p.starts.push_back(start);
    for (int64_t t = 0; t < count; ++t)
      p.positions.data<int32_t>()[begin + t] = static_cast<int32_t>(start + t);
    p.attention.push_back(
        {begin, count, continuation ? continuation->slots[d] * continuation->capacity : begin, start});
    p.segments.push_back({begin, count});
  }
  p.positions = p.positions.to(device);
  p.document_boundaries = boundaries_of(documents, device);
  if (continuation) p.continue_from(*continuation, chunk, device);
  if (chunk) p.make_chunk_steps(chunk, device);
  return p;
}

Tensor DocumentLayout::places_of_tokens(const Continuation& continuation, int64_t chunk) {
  const int64_t n = static_cast<int64_t>(continuation.slots.size());
  const Tensor places = Tensor::empty({8, n}, DType::i32);
  int32_t* const at = places.data<int32_t>();
  for (int64_t i = 0; i < n; ++i) {
    const int64_t slot = continuation.slots[i], position = continuation.starts[i],
                  first = slot * continuation.capacity, segment[] = {i, 1, first, position};
    at[i] = static_cast<int32_t>(position);
    at[n + i] = static_cast<int32_t>(slot);
    at[2 * n + i] = static_cast<int32_t>(first + position);
    at[3 * n + i] = chunk && position % chunk == 0 ? static_cast<int32_t>(slot) : -1;
    std::copy(std::begin(segment), std::end(segment), at + 4 * n + 4 * i);
  }
  return places;
}

Tensor DocumentLayout::place(int i) const { return token_places.rows(i, i + 1).view({token_places.dim(1)}); }

void DocumentLayout::make_chunk_steps(int64_t chunk, Device device) {
  std::vector<size_t> before;                                              // documents of the step before
  std::vector<std::vector<kernels::RowRun>> chunks(documents.size() - 1);  // of each document, in step order
  std::vector<int64_t> next(documents.begin(), documents.end() - 1);       // the first row that is in no step
  int64_t done = 0;
  while (done < rows) {
    ChunkStep step;
    std::vector<size_t> now;
    std::vector<int32_t> at, boundaries;
    int64_t packed = 0;
    for (size_t d = 0; d + 1 < documents.size(); ++d) {
      const int64_t first = starts[d] + next[d] - documents[d],  // in the document
          count = std::min(chunk - first % chunk, documents[d + 1] - next[d]);
      if (count <= 0) continue;
      chunk_step_order.push_back({next[d], count});
      chunks[d].push_back({done + packed, count});
      step.attention.push_back({packed, count, attention[d].k_begin, first});
      step.segments.push_back({packed, count});
      if (done) step.continuing.push_back({std::find(before.begin(), before.end(), d) - before.begin(), 1});
      if (!slots.of_documents.empty()) {
        step.slots.of_documents.push_back(slots.of_documents[d]);
        boundaries.push_back(first % chunk == 0 ? static_cast<int32_t>(slots.of_documents[d]) : -1);
      }
      for (int64_t t = 0; t < count; ++t) at.push_back(static_cast<int32_t>(first + t));
      packed += count;
      next[d] += count;
      now.push_back(d);
    }
    if (token_places.defined()) {
      step.positions = positions;
      step.slots = slots;
      step.boundary_rows = place(3);
      step.attention_table = attention_table;
    } else {
      step.positions = Tensor::from(at, {packed}).to(device);
      if (!boundaries.empty()) step.boundary_rows = Tensor::from(boundaries, {std::ssize(now)}).to(device);
    }
    chunk_steps.push_back(std::move(step));
    chunk_step_rows.push_back(packed);
    done += packed;
    before = std::move(now);
  }
  for (const auto& of_document : chunks)
    documents_order.insert(documents_order.end(), of_document.begin(), of_document.end());
}

void DocumentLayout::continue_from(const Continuation& continuation, int64_t chunk, Device device) {
  slots.of_documents = continuation.slots;
  const int64_t count = static_cast<int64_t>(continuation.slots.size());
  std::vector<int64_t> extended = {0};
  for (int64_t d = 0; d < count; ++d) {
    const int64_t begin = documents[d], tokens = documents[d + 1] - begin;
    cache_rows.push_back({continuation.slots[d] * continuation.capacity + starts[d], tokens});
    last_rows.push_back({documents[d + 1] - 1, 1});
    with_before.push_back({d, 1});
    with_before.push_back({count + begin, tokens});
    without_before.push_back({extended.back() + 1, tokens});
    extended.push_back(extended.back() + 1 + tokens);
  }
  boundaries_with_before = boundaries_of(extended, device);
  if (device.kind == DeviceKind::cpu || rows != count) return;
  token_places = places_of_tokens(continuation, chunk).to(device);
  positions = place(0);
  slots.on_device = place(1);
  cache_row_table = place(2);
  attention_table = token_places.rows(4, 8).view({count, 4});
}

void DocumentLayout::make_rope_cos_sin(const Stream& stream, const std::vector<double>& frequencies,
                                       double factor) {
  const int64_t half = static_cast<int64_t>(frequencies.size());
  const auto cos_sin_of = [&](const Tensor& at) {
    const Tensor cos_sin = Tensor::empty({2, at.dim(0), half}, DType::f32, at.device());
    kernels::rope_cos_sin(
        stream, {.positions = at, .frequencies = frequencies, .factor = factor, .cos_sin = cos_sin});
    return cos_sin;
  };
  rope_cos_sin = cos_sin_of(positions);
  for (ChunkStep& step : chunk_steps)
    step.rope_cos_sin = step.positions.raw() == positions.raw() ? rope_cos_sin : cos_sin_of(step.positions);
}

}  // namespace wuneng
