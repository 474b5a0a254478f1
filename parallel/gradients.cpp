#include "parallel/gradients.h"

#include <algorithm>
#include <cmath>

#include "kernels/reduce.h"

namespace wuneng {
namespace {

constexpr int64_t kBucket =
    8 << 20;  // elements: 32 MB. Large enough for bandwidth, small enough to stay a detail.

// A gradient and its place among the elements that are summed with other ranks'.
struct Part {
  Tensor gradient;
  int64_t offset = 0;  // where the gradient begins ...
  int64_t count = 0;  // ... among this many elements, the same number on all ranks; the rest are other ranks'

  Tensor flat() const { return gradient.view({gradient.numel()}); }
  Tensor place(const Tensor& bucket, int64_t at) const {
    return bucket.rows(at + offset, at + offset + gradient.numel());
  }
};

Part whole(const Parameter& p) { return {p.var.grad_buffer(), 0, p.var.grad_buffer().numel()}; }

// As elements of the logical tensor, so that ranges of ranks may overlap in any way.
Part in_logical_tensor(const Parameter& p) {
  const bool all = p.held == Range{0, p.global_shape[p.cut_dim]};
  require(p.cut_dim == 0 || all,
          "parameter {}: a gradient of which ranks hold shares is cut along dimension {}, expected 0", p.name,
          p.cut_dim);
  const int64_t count = element_count(p.global_shape);
  return {p.var.grad_buffer(), all ? 0 : count / p.global_shape[0] * p.held.begin, count};
}

// Sums parts over the ranks of `comm`, in place. Small ones share a bucket and with it a call; one that fills
// a bucket alone and is whole is not copied.
void sum_in_buckets(const Comm& comm, const std::vector<Part>& parts, const char* what) {
  if (comm.size() == 1) return;
  Tensor buffer;
  int64_t left = 0;  // elements behind this bucket
  for (const Part& p : parts) left += p.count;
  for (size_t first = 0, last; first < parts.size(); first = last) {
    int64_t total = parts[first].count;
    for (last = first + 1; last < parts.size() && total + parts[last].count <= kBucket; ++last)
      total += parts[last].count;
    left -= total;
    if (last == first + 1 && parts[first].gradient.numel() == total) {
      comm.all_reduce(parts[first].gradient.view({total}), Reduce::sum, what);
      continue;
    }
    if (!buffer.defined() || buffer.numel() < total)
      buffer = Tensor::empty({std::max(total, std::min(total + left, kBucket))}, DType::f32,
                             parts[first].gradient.device());
    const Tensor bucket = buffer.rows(0, total);
    int64_t at = 0;
    for (size_t i = first; i < last; at += parts[i++].count) {
      if (parts[i].gradient.numel() < parts[i].count) bucket.rows(at, at + parts[i].count).zero();
      parts[i].place(bucket, at).copy_from(parts[i].flat());
    }
    comm.all_reduce(bucket, Reduce::sum, what);
    at = 0;
    for (size_t i = first; i < last; at += parts[i++].count)
      parts[i].flat().copy_from(parts[i].place(bucket, at));
  }
}

}  // namespace

void synchronize_gradients(const Parameters& parameters, const GradientGroups& groups) {
  std::vector<Part> shares, ends, all;
  for (const Parameter* p : parameters) {
    if (!p->trainable) continue;
    if (p->sum_over_tp) shares.push_back(in_logical_tensor(*p));
    if (p->sum_over_embedding) ends.push_back(whole(*p));
    all.push_back(whole(*p));
  }
  sum_in_buckets(groups.tp, shares, "gradient shares over tp");
  sum_in_buckets(groups.embedding, ends, "gradient of the tied embedding");
  sum_in_buckets(groups.dp, all, "gradients over dp");
}

double gradient_norm(const Parameters& parameters, const GradientGroups& groups) {
  std::vector<Tensor> mine;
  for (const Parameter* p : parameters)
    if (p->trainable && p->owned.size() > 0 && p->var.has_grad())
      mine.push_back(p->owned_part(p->var.grad()));
  double sum = 0;
  if (!mine.empty()) {
    const Device device = mine[0].device();
    const Tensor squares = Tensor::zeros({1}, DType::f64, device);
    kernels::sum_of_squares(compute_stream(device), {.x = mine, .sum = squares});
    sum = squares.to(Device{}).data<double>()[0];
  }
  sum = groups.tp.all_reduce(sum, Reduce::sum, "grad norm over tp");
  return std::sqrt(groups.pp.all_reduce(sum, Reduce::sum, "grad norm over pp"));
}

}  // namespace wuneng
