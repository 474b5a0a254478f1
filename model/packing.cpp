#include "model/packing.h"

#include <algorithm>

#include "kernels/channel.h"
#include "kernels/rope.h"

namespace wuneng {

Packing Packing::make(const std::vector<int64_t>& documents, int64_t chunk, Device device) {
  WUNENG_ASSERT(documents.size() >= 2 && documents.front() == 0);
  Packing p;
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
  p.edges = Tensor::zeros({p.rows}, DType::i32);
  for (size_t d = 0; d + 1 < documents.size(); ++d) {
    p.edges.data<int32_t>()[documents[d]] |= kernels::kBegins;
    p.edges.data<int32_t>()[documents[d + 1] - 1] |= kernels::kEnds;
  }
  p.edges = p.edges.to(device);
  if (chunk == 0) return p;
  std::vector<size_t> before;                                              // documents of the wave before
  std::vector<std::vector<kernels::RowRun>> chunks(documents.size() - 1);  // of each document, in wave order
  int64_t done = 0;
  for (int64_t first = 0; first < longest; first += chunk) {
    Wave wave;
    std::vector<size_t> now;
    int64_t packed = 0;
    for (size_t d = 0; d + 1 < documents.size(); ++d) {
      const int64_t begin = documents[d], count = std::min(chunk, documents[d + 1] - begin - first);
      if (count <= 0) continue;
      p.wave_order.push_back({begin + first, count});
      chunks[d].push_back({done + packed, count});
      wave.attention.push_back({packed, count, begin, first});
      wave.segments.push_back({packed, count});
      if (first) wave.survivors.push_back({std::find(before.begin(), before.end(), d) - before.begin(), 1});
      packed += count;
      now.push_back(d);
    }
    wave.positions = Tensor::empty({packed}, DType::i32);
    for (const kernels::Wkv7Segment& s : wave.segments)
      for (int64_t t = 0; t < s.count; ++t)
        wave.positions.data<int32_t>()[s.begin + t] = static_cast<int32_t>(first + t);
    wave.positions = wave.positions.to(device);
    p.waves.push_back(std::move(wave));
    p.wave_rows.push_back(packed);
    done += packed;
    before = std::move(now);
  }
  for (const auto& of_document : chunks)
    p.documents_order.insert(p.documents_order.end(), of_document.begin(), of_document.end());
  return p;
}

void Packing::make_turns(const Stream& stream, int64_t head_dim, float theta) {
  const auto turns_of = [&](const Tensor& at) {
    const Tensor turns = Tensor::empty({2, at.dim(0), head_dim / 2}, DType::f32, at.device());
    kernels::rope_turns(stream, {.positions = at, .theta = theta, .turns = turns});
    return turns;
  };
  turns = turns_of(positions);
  for (Wave& wave : waves) wave.turns = turns_of(wave.positions);
}

}  // namespace wuneng
