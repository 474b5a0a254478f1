#include "parallel/gradients.h"

#include <algorithm>
#include <cmath>

#include "kernels/reduce.h"

namespace wuneng {
namespace {

// Elements of a bucket, but for a gradient that is larger: 32 MB are enough for bandwidth, and the first of
// many is soon complete.
constexpr int64_t kBucket = 8 << 20, kLeastBuckets = 8;
constexpr int64_t kAlignment = 64;  // elements: a gradient in its bucket begins at a multiple

int64_t aligned(int64_t count) { return (count + kAlignment - 1) / kAlignment * kAlignment; }

// Where a gradient of which tp's ranks hold shares begins in its logical tensor, so that ranges of ranks may
// overlap in any way.
int64_t begin_of_share(const Parameter& p) {
  if (p.held == Range{0, p.global_shape[p.shard_dim]}) return 0;
  require(p.shard_dim == 0,
          "parameter {}: a gradient of which ranks hold shares is cut along dimension {}, expected 0", p.name,
          p.shard_dim);
  return element_count(p.global_shape) / p.global_shape[0] * p.held.begin;
}

}  // namespace

GradientSums::GradientSums(const Parameters& parameters, const GradientGroups& groups)
    : parameters_(parameters), groups_(groups) {
  // Not this rank's part of it: all ranks of tp make the same buckets.
  const auto size = [&](const Parameter* p) { return element_count(p->global_shape) / groups.tp.size(); };
  int64_t all = 0;
  for (const Parameter* p : parameters) all += size(p);
  for (const bool at_the_ends : {false, true}) {
    int64_t room = -1;  // the first parameter begins a bucket, be it empty
    for (size_t i = parameters.size(); i-- > 0;) {
      Parameter* const p = parameters[i];
      if (!p->trainable || p->sum_over_embedding != at_the_ends) continue;
      if (size(p) > room) {
        buckets_.push_back({.at_the_ends = at_the_ends});
        room = std::min(kBucket, all / kLeastBuckets);
      }
      room = std::max<int64_t>(0, room - size(p));
      buckets_.back().first = i;
      buckets_.back().parameters.push_back(p);
    }
  }
  for (Bucket& bucket : buckets_) lay_out(bucket);
}

void GradientSums::lay_out(Bucket& bucket) const {
  int64_t count = 0;
  for (const Parameter* p : bucket.parameters) count += aligned(p->var.value().numel());
  bucket.gradients = Tensor::zeros({count}, DType::f32, bucket.parameters[0]->var.value().device());
  int64_t at = 0;
  for (const Parameter* p : bucket.parameters) {
    const Tensor flat = bucket.gradients.rows(at, at + p->var.value().numel());
    if (p->var.has_grad()) flat.copy_from(p->var.grad().view(flat.shape()));
    p->var.set_grad(flat.view(p->var.shape()));
    at += aligned(flat.numel());
    if (!p->sum_over_tp || groups_.tp.size() == 1) continue;
    bucket.shares.push_back({flat, bucket.shared + begin_of_share(*p)});
    bucket.shared += element_count(p->global_shape);
  }
}

void GradientSums::complete_from(const Parameter* first) {
  pass_on(true);  // what has had the time between two calls
  begin(std::find(parameters_.begin(), parameters_.end(), first) - parameters_.begin(), false);
  pass_on(false);
}

void GradientSums::finish() {
  begin(0, true);
  pass_on(true);
  for (Bucket& bucket : buckets_) bucket.over_dp.wait();
  begun_ = passed_ = 0;
}

// Of buckets whose parameters lie at `first` and behind, and of the ends' where that is said.
void GradientSums::begin(size_t first, bool at_the_ends) {
  for (; begun_ < buckets_.size(); ++begun_) {
    Bucket& bucket = buckets_[begun_];
    if (bucket.first < first || (bucket.at_the_ends && !at_the_ends)) return;
    if (bucket.shares.empty()) continue;
    bucket.sum_of_shares = Tensor::zeros({bucket.shared}, DType::f32, bucket.gradients.device());
    for (const Share& s : bucket.shares) s.place(bucket.sum_of_shares).copy_from(s.gradient);
    bucket.over_tp = groups_.tp.iall_reduce(bucket.sum_of_shares, Reduce::sum, "gradient shares over tp");
  }
}

// Buckets that have begun, in turn, from tp to dp. wait: also those whose shares are being summed.
void GradientSums::pass_on(bool wait) {
  for (; passed_ < begun_; ++passed_) {
    Bucket& bucket = buckets_[passed_];
    if (!bucket.shares.empty() && !wait) return;
    bucket.over_tp.wait();
    for (const Share& s : bucket.shares) s.gradient.copy_from(s.place(bucket.sum_of_shares));
    bucket.sum_of_shares = {};
    if (bucket.at_the_ends)
      groups_.embedding.all_reduce(bucket.gradients, Reduce::sum, "gradient of the tied embedding");
    bucket.over_dp = groups_.dp.iall_reduce(bucket.gradients, Reduce::sum, "gradients over dp");
  }
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
