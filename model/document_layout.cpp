#include "model/document_layout.h"

#include <algorithm>

#include "kernels/channel.h"
#include "kernels/rope.h"

namespace wuneng {

DocumentLayout DocumentLayout::make(const std::vector<int64_t>& documents, int64_t chunk, Device device) {
  WUNENG_ASSERT(documents.size() >= 2 && documents.front() == 0);
  DocumentLayout p;
  p.documents = documents;
  p.rows = documents.back();
  p.positions = Tensor::empty({p.rows}, DType::i32);
  int64_t longest = 0;
  for (size_t d = 0; d + 1 < documents.size(); ++d) {
    const int64_t begin = documents[d], count = documents[d + 1] - begin;
    WUNENG_ASSERT(count > 0);
    longest = std::max(longest, count);
    for (int64_t t = 0; t < count; ++t) p.positions.data<int32_t>()[begin + t] = static_cast<int32_t>(t);
    p.attention.push_back({begin, count, begin, 0});
    p.segments.push_back({begin, count});
  }
  p.positions = p.positions.to(device);
  p.document_boundaries = Tensor::zeros({p.rows}, DType::i32);
  for (size_t d = 0; d + 1 < documents.size(); ++d) {
    p.document_boundaries.data<int32_t>()[documents[d]] |= kernels::kDocumentBegins;
    p.document_boundaries.data<int32_t>()[documents[d + 1] - 1] |= kernels::kDocumentEnds;
  }
  p.document_boundaries = p.document_boundaries.to(device);
  if (chunk == 0) return p;
  std::vector<size_t> before;                                              // documents of the step before
  std::vector<std::vector<kernels::RowRun>> chunks(documents.size() - 1);  // of each document, in step order
  int64_t done = 0;
  for (int64_t first = 0; first < longest; first += chunk) {
    ChunkStep step;
    std::vector<size_t> now;
    int64_t packed = 0;
    for (size_t d = 0; d + 1 < documents.size(); ++d) {
      const int64_t begin = documents[d], count = std::min(chunk, documents[d + 1] - begin - first);
      if (count <= 0) continue;
      p.chunk_step_order.push_back({begin + first, count});
      chunks[d].push_back({done + packed, count});
      step.attention.push_back({packed, count, begin, first});
      step.segments.push_back({packed, count});
      if (first) step.continuing.push_back({std::find(before.begin(), before.end(), d) - before.begin(), 1});
      packed += count;
      now.push_back(d);
    }
    step.positions = Tensor::empty({packed}, DType::i32);
    for (const kernels::Wkv7Segment& s : step.segments)
      for (int64_t t = 0; t < s.count; ++t)
        step.positions.data<int32_t>()[s.begin + t] = static_cast<int32_t>(first + t);
    step.positions = step.positions.to(device);
    p.chunk_steps.push_back(std::move(step));
    p.chunk_step_rows.push_back(packed);
    done += packed;
    before = std::move(now);
  }
  for (const auto& of_document : chunks)
    p.documents_order.insert(p.documents_order.end(), of_document.begin(), of_document.end());
  return p;
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
  for (ChunkStep& step : chunk_steps) step.rope_cos_sin = cos_sin_of(step.positions);
}

}  // namespace wuneng
