// The learning rate as a pure function of the step, so that a restarted run needs nothing but its step.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace wuneng {

// Linear warm-up to the peak, then half a cosine down to the floor.
struct LearningRate {
  double peak = 3e-4, floor = 0;
  int64_t warmup = 0;  // steps of warm-up
  int64_t steps = 1;   // where the floor is reached

  // step counts from 0: (step + 1) / warmup of the peak while warming up, the peak at `warmup`, the floor
  // from `steps` on.
  double at(int64_t step) const {
    if (step < warmup) return peak * double(step + 1) / double(warmup);
    if (step >= steps) return floor;
    const double done = double(step - warmup) / double(steps - warmup);
    return floor + (peak - floor) * 0.5 * (1 + std::cos(std::numbers::pi * done));
  }
};

}  // namespace wuneng
