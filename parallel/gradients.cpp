#include "parallel/gradients.h"

#include <cmath>
#include <cstring>

namespace wuneng {
namespace {

constexpr int64_t kBucket = 8 << 20;  // elements: 32 MB

// A part of a gradient, and where it stands in the buffer that is reduced.
struct Part {
  float* data;
  int64_t count;
};

// Sums parts over the ranks of `comm`, packed into buckets so that small tensors share a call.
void sum_packed(const Comm& comm, const std::vector<Part>& parts, const char* what) {
  if (comm.size() == 1) return;
  for (size_t first = 0; first < parts.size();) {
    size_t last = first;
    int64_t total = 0;
    while (last < parts.size() && (last == first || total + parts[last].count <= kBucket)) total += parts[last++].count;
    const Tensor bucket = Tensor::empty({total});
    const auto copy = [&](bool in) {
      float* at = bucket.f32();
      for (size_t i = first; i < last; at += parts[i++].count)
        std::memcpy(in ? at : parts[i].data, in ? parts[i].data : at, parts[i].count * sizeof(float));
    };
    copy(true);
    comm.all_reduce(bucket, Reduce::sum, what);
    copy(false);
    first = last;
  }
}

}  // namespace

void synchronize_gradients(const Parameters& parameters, const GradientGroups& groups) {
  std::vector<Part> shares, ends, all;
  std::vector<std::pair<const Parameter*, Tensor>> spread;  // overlapping ranges: summed as whole logical tensors
  for (const Parameter* p : parameters) {
    if (!p->trainable) continue;
    const Tensor gradient = p->var.grad_buffer();
    const Part part{gradient.f32(), gradient.numel()};
    all.push_back(part);
    if (p->sum_over_embedding) ends.push_back(part);
    if (!p->sum_over_tp || groups.tp.size() == 1) continue;
    const Tensor whole = Tensor::zeros(p->global_shape);
    whole.rows(p->held.begin, p->held.end).copy_from(gradient);
    spread.emplace_back(p, whole);
    shares.push_back({whole.f32(), whole.numel()});
  }
  sum_packed(groups.tp, shares, "gradient shares over tp");
  for (const auto& [p, whole] : spread) p->var.grad().copy_from(whole.rows(p->held.begin, p->held.end));
  sum_packed(groups.embedding, ends, "gradient of the tied embedding");
  sum_packed(groups.dp, all, "gradients over dp");
}

double gradient_norm(const Parameters& parameters, const GradientGroups& groups) {
  double sum = 0;
  for (const Parameter* p : parameters) {
    if (!p->trainable || p->owned.size() == 0) continue;
    const Tensor owned = p->owned_part(p->var.grad());
    const float* g = owned.f32();
    constexpr int64_t kBlock = 4096;
    for (int64_t from = 0; from < owned.numel(); from += kBlock) {
      float block = 0;
      const int64_t to = std::min(owned.numel(), from + kBlock);
#pragma omp simd reduction(+ : block)
      for (int64_t i = from; i < to; ++i) block += g[i] * g[i];
      sum += block;
    }
  }
  sum = groups.tp.all_reduce(sum, Reduce::sum, "grad norm over tp");
  return std::sqrt(groups.pp.all_reduce(sum, Reduce::sum, "grad norm over pp"));
}

}  // namespace wuneng
