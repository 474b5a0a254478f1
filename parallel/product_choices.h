// The algorithms of matrix products, chosen by time and the same on all ranks (kernels/timed_products.h):
// ranks that compute the same values, be they shards of tp or replicas of dp, must get the same bits.
#pragma once
#include "runtime/comm.h"
#include "runtime/device.h"

namespace wuneng {

struct TimedProducts {
  int64_t products = 0;  // of this rank, of one shape each
  int64_t changed = 0;   // of them, which have another algorithm now
};

// Collective over the group, at a place where no rank has anything to do for another: times the products that
// ranks have computed on `stream` so far. The first rank that has a product times it, and all choose what it
// found.
TimedProducts time_products(const Comm& group, const Stream& stream);

}  // namespace wuneng
