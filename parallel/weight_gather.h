// ZeRO-1's second half (Rajbhandari et al. 2020, arXiv 1910.02054): the data-parallel ranks have each updated
// their shares of the weights, and give them to each other.
#pragma once
#include "parallel/buckets.h"
#include "runtime/comm.h"

namespace wuneng {

class WeightGather {
 public:
  // Moves the weights of each bucket into one tensor, where they stay.
  WeightGather(const std::vector<Bucket>& buckets, const Comm& dp);

  // Collective over dp, with each rank's shares (Bucket::share) updated: all ranks have all weights.
  void run() const;

 private:
  std::vector<Tensor> weights_;  // by bucket: [Bucket::size]
  Comm dp_;
};

}  // namespace wuneng
