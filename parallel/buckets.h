// Buckets: a rank's trainable parameters in a few groups, the elements of each in one row, so that ranks sum
// or gather many tensors in one call.
#pragma once
#include "parallel/parameter.h"

namespace wuneng {

struct Bucket {
  struct Place {
    Parameter* parameter;
    Range elements;  // of the bucket
  };
  bool at_the_ends = false;  // of a tied embedding, which both ends of the pipeline hold
  size_t first = 0;          // the least position of its parameters
  std::vector<Place> places;
  int64_t size = 0;  // elements, with what is free between parameters and at the end; all data-parallel
                     // ranks' shares of them are equal

  // What rank `rank` of `ranks` data-parallel ranks has of it.
  Range share(int ranks, int rank) const { return shard_range(size, ranks, rank); }
  // The parts of its parameters that are in a range of it.
  std::vector<ParameterPart> parts(Range range) const;
  // A tensor [size] of zeros, of a type, where the parameters are.
  Tensor zeros(DType dtype) const;
};

// In the order in which a backward pass completes them, from the last parameter to the first, but for those
// that are joined (Parameter::joins_next), which stay together; those of the pipeline's ends come last. Which
// elements share a bucket is the same on all ranks of a tensor-parallel group of `tp` ranks, but for their
// shards' sizes, and of a data-parallel group of `dp`.
std::vector<Bucket> make_buckets(const Parameters& parameters, int tp, int dp);

}  // namespace wuneng
