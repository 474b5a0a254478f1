#include "parallel/buckets.h"

namespace wuneng {
namespace {

// Elements of a bucket, but for a parameter that is larger: 32 MB of gradients are enough for bandwidth, and
// the first of many is soon complete.
constexpr int64_t kBucket = 8 << 20, kLeastBuckets = 8;
constexpr int64_t kAlignment = 64;  // elements: a parameter and a rank's share begin at a multiple

int64_t aligned(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

bool stay_together(const Parameter& first, const Parameter& second) {
  return first.joins_next && first.trainable && second.trainable;
}

}  // namespace

std::vector<ParameterPart> Bucket::parts(Range range) const {
  std::vector<ParameterPart> out;
  for (const Place& place : places) {
    const Range common = place.elements.common(range);
    if (common.size() > 0)
      out.push_back(
          {place.parameter, {common.begin - place.elements.begin, common.end - place.elements.begin}});
  }
  return out;
}

Tensor Bucket::zeros(DType dtype) const {
  return Tensor::zeros({size}, dtype, places[0].parameter->var.value().device());
}

std::vector<Bucket> make_buckets(const Parameters& parameters, int tp, int dp) {
  // Not this rank's part of it: all ranks of tp make the same buckets.
  const auto size = [&](const Parameter* p) { return element_count(p->global_shape) / tp; };
  int64_t all = 0;
  for (const Parameter* p : parameters) all += size(p);
  std::vector<Bucket> out;
  for (const bool at_the_ends : {false, true}) {
    int64_t room = -1;  // the first parameter begins a bucket, be it empty
    for (size_t end = parameters.size(), first = 0; end > 0; end = first) {
      first = end - 1;
      while (first > 0 && stay_together(*parameters[first - 1], *parameters[first])) --first;
      if (!parameters[first]->trainable || parameters[first]->sum_over_embedding != at_the_ends) continue;
      int64_t count = 0;
      for (size_t i = first; i < end; ++i) count += size(parameters[i]);
      if (count > room) {
        out.push_back({.at_the_ends = at_the_ends});
        room = std::min(kBucket, all / kLeastBuckets);
      }
      room = std::max<int64_t>(0, room - count);
      Bucket& bucket = out.back();
      bucket.first = first;
      for (size_t i = first; i < end; ++i) {
        const int64_t begin = bucket.size;
        bucket.size += parameters[i]->var.value().numel();
        bucket.places.push_back({parameters[i], {begin, bucket.size}});
      }
      bucket.size = aligned(bucket.size, kAlignment);
    }
  }
  for (Bucket& bucket : out) bucket.size = aligned(bucket.size, kAlignment * dp);
  return out;
}

}  // namespace wuneng
