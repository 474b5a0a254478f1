#include "parallel/gradients.h"

#include <algorithm>

#include "kernels/reduce.h"

namespace wuneng {
namespace {

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

GradientSums::GradientSums(const Parameters& parameters, const GradientGroups& groups, SumOverDp over_dp)
    : parameters_(parameters),
      groups_(groups),
      over_dp_(over_dp),
      buckets_(make_buckets(parameters, groups.tp.size(), groups.dp.size())) {
  for (const Bucket& bucket : buckets_) sums_.push_back(lay_out(bucket));
}

GradientSums::Sum GradientSums::lay_out(const Bucket& bucket) const {
  Sum sum{.gradients = bucket.zeros(DType::f32)};
  for (const auto& [p, elements] : bucket.places) {
    const Tensor flat = sum.gradients.rows(elements.begin, elements.end);
    if (p->var.has_grad()) flat.copy_from(p->var.grad().view(flat.shape()));
    p->var.set_grad(flat.view(p->var.shape()));
    if (!p->sum_over_tp || groups_.tp.size() == 1) continue;
    sum.shares.push_back({flat, sum.shared + begin_of_share(*p)});
    sum.shared += element_count(p->global_shape);
  }
  return sum;
}

std::vector<ParameterPart> GradientSums::updates() const {
  std::vector<ParameterPart> out;
  for (const Bucket& bucket : buckets_)
    for (const ParameterPart& part :
         bucket.parts(over_dp_ == SumOverDp::share ? share_of(bucket) : Range{0, bucket.size}))
      out.push_back(part);
  return out;
}

void GradientSums::complete_from(const Parameter* first) {
  pass_on(true);  // what has had the time between two calls
  begin(std::find(parameters_.begin(), parameters_.end(), first) - parameters_.begin(), false);
  pass_on(false);
}

void GradientSums::finish() {
  begin(0, true);
  pass_on(true);
  for (size_t i = 0; i < buckets_.size(); ++i) {
    sums_[i].over_dp.wait();
    if (over_dp_ == SumOverDp::whole) continue;
    const Range mine = share_of(buckets_[i]);
    sums_[i].gradients.rows(0, mine.begin).zero();
    sums_[i].gradients.rows(mine.end, buckets_[i].size).zero();
  }
  begun_ = passed_ = 0;
}

// Of buckets whose parameters lie at `first` and behind, and of the ends' where that is said.
void GradientSums::begin(size_t first, bool at_the_ends) {
  for (; begun_ < buckets_.size(); ++begun_) {
    const Bucket& bucket = buckets_[begun_];
    if (bucket.first < first || (bucket.at_the_ends && !at_the_ends)) return;
    Sum& sum = sums_[begun_];
    if (sum.shares.empty()) continue;
    sum.sum_of_shares = Tensor::zeros({sum.shared}, DType::f32, sum.gradients.device());
    for (const Share& s : sum.shares) s.place(sum.sum_of_shares).copy_from(s.gradient);
    sum.over_tp = groups_.tp.iall_reduce(sum.sum_of_shares, Reduce::sum, "gradient shares over tp");
  }
}

// Buckets that have begun, in turn, from tp to dp. wait: also those whose shares are being summed.
void GradientSums::pass_on(bool wait) {
  for (; passed_ < begun_; ++passed_) {
    Sum& sum = sums_[passed_];
    if (!sum.shares.empty() && !wait) return;
    sum.over_tp.wait();
    for (const Share& s : sum.shares) s.gradient.copy_from(s.place(sum.sum_of_shares));
    sum.sum_of_shares = {};
    if (buckets_[passed_].at_the_ends)
      groups_.embedding.all_reduce(sum.gradients, Reduce::sum, "gradient of the tied embedding");
    sum.over_dp = over_dp_ == SumOverDp::share
                      ? groups_.dp.ireduce_scatter(sum.gradients, "gradients over dp")
                      : groups_.dp.iall_reduce(sum.gradients, Reduce::sum, "gradients over dp");
  }
}

// Each rank of dp measures its share, whichever sums it has: the norm is the same to the bit.
Tensor GradientSums::squared_norm() const {
  std::vector<ParameterPart> mine;
  for (const Bucket& bucket : buckets_)
    for (const ParameterPart& part : bucket.parts(share_of(bucket))) mine.push_back(part);
  const Device device = parameters_.empty() ? Device{} : parameters_[0]->var.value().device();
  return squared_gradient_norm(mine, groups_, device);
}

Tensor squared_gradient_norm(const std::vector<ParameterPart>& parts, const GradientGroups& groups,
                             Device device) {
  std::vector<Tensor> mine;
  for (const ParameterPart& part : parts) {
    const ParameterPart owned = part.owned();
    const Var& var = part.parameter->var;
    if (part.parameter->trainable && owned.elements.size() > 0 && var.has_grad())
      mine.push_back(owned.of(var.grad()));
  }
  const Tensor squares = Tensor::zeros({1}, DType::f64, device);
  if (!mine.empty()) kernels::sum_of_squares(compute_stream(device), {.x = mine, .sum = squares});
  groups.tp.all_reduce(squares, Reduce::sum, "grad norm over tp");
  groups.dp.all_reduce(squares, Reduce::sum, "grad norm over dp");
  groups.pp.all_reduce(squares, Reduce::sum, "grad norm over pp");
  return squares;
}

}  // namespace wuneng
