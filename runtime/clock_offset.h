// How far the clocks of ranks are apart.
#pragma once
#include <functional>

#include "runtime/comm.h"

namespace wuneng {

// Collective. What is to be added to this rank's clock `now` (nanoseconds) to have the first rank's, with an
// error of at most half the time that a message takes there and back.
int64_t clock_offset(const Comm& ranks, const std::function<int64_t()>& now);

}  // namespace wuneng
