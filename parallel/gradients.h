// Gradients across ranks: summed where ranks hold shares of one, and measured as one vector.
#pragma once
#include "parallel/buckets.h"
#include "runtime/comm.h"

namespace wuneng {

// The groups that gradients are summed over; see parallel/mesh.h.
struct GradientGroups {
  Comm tp = {}, pp = {}, dp = {};
  Comm embedding = {};  // first and last pipeline stage; itself elsewhere
};

// Which sums a data-parallel rank gets: of all gradients, or of its share of each bucket (ZeRO-1).
enum class SumOverDp { whole, share };

// The sums of all trainable parameters' gradients: over tp where a gradient's holders have shares (each
// element over the ranks that hold it), over the two ends of the pipeline for a tied embedding, then over dp.
// A parameter without a gradient counts as zero. Parameters of the ranks of one tp group, and of one dp
// group, correspond by position.
//
// Gradients are contiguous in buckets, from the last parameter to the first, as a backward pass
// completes them. A bucket's sums begin when all of it is complete and overlap the rest of the
// pass. Which elements share a bucket, and the order of the sums, do not depend on when that is. Sums of
// whole buckets and of shares are equal to the bit where Comm's are: see Comm::ireduce_scatter.
class GradientSums {
 public:
  // Moves the gradients into the buckets, where they stay.
  GradientSums(const Parameters& parameters, const GradientGroups& groups,
               SumOverDp over_dp = SumOverDp::whole);

  // Begins what can be: until finish(), nothing is added to the gradient of `first` or of those behind it.
  // Called in the same places of all ranks' programs, or not at all.
  void complete_from(const Parameter* first);
  // Nothing is added to any gradient. Afterwards those of updates() are the sums, others are zero, and a next
  // step may begin.
  void finish();

  const std::vector<Bucket>& buckets() const { return buckets_; }
  // What this rank has the sums of, and updates.
  std::vector<ParameterPart> updates() const;
  // The square of the global L2 norm over owned elements, each counted once, [1] f64 where the gradients are,
  // the same on all ranks: it depends on the layout's cut, but on no rank's thread count. Call after
  // finish().
  Tensor squared_norm() const;

 private:
  // A gradient of which tp's ranks hold shares.
  struct Share {
    Tensor gradient;    // flat
    int64_t begin = 0;  // among the elements that tp's ranks sum

    Tensor place(const Tensor& sum) const { return sum.rows(begin, begin + gradient.numel()); }
  };
  // Of a bucket.
  struct Sum {
    Tensor gradients = {};  // all of them
    std::vector<Share> shares = {};
    int64_t shared = 0;         // elements that tp's ranks sum
    Tensor sum_of_shares = {};  // while they do
    Request over_tp = {}, over_dp = {};
  };
  Sum lay_out(const Bucket& bucket) const;
  Range share_of(const Bucket& bucket) const { return bucket.share(groups_.dp.size(), groups_.dp.rank()); }
  void begin(size_t first, bool at_the_ends);
  void pass_on(bool wait);

  Parameters parameters_;
  GradientGroups groups_;
  SumOverDp over_dp_;
  std::vector<Bucket> buckets_;
  std::vector<Sum> sums_;          // of the buckets
  size_t begun_ = 0, passed_ = 0;  // buckets whose sums over tp, over dp have begun
};

// The squared L2 norm of the gradients of parts of which each element is one rank's of dp, counted where it
// is owned, [1] f64 on the parts' device; the same on all ranks.
Tensor squared_gradient_norm(const std::vector<ParameterPart>& parts, const GradientGroups& groups,
                             Device device);

}  // namespace wuneng
