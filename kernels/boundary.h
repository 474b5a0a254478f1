// Reading the boundary state (model.md, "Why the boundary state"): rows of segment s read one fixed state
// B[s] per state head.
#pragma once
#include <vector>

#include "kernels/wkv7.h"

namespace wuneng::kernels {

// y[t, h] (+)= B[s, head_state[h]] r[t, h], or B^T if transposed, for the rows t of segment s.
struct BoundaryReadArgs {
  Tensor states;  // [segments, N, D, D]
  Tensor r, y;    // [T, R, D]
  std::vector<Wkv7Segment> segments;
  std::vector<int> head_state;
  bool transposed = false;
  bool accumulate = false;
  // With a weight also the RMSNorm of y, without `accumulate`: see RmsNormArgs.
  Tensor weight = {};  // weight, R * D elements
  float eps = 0;
  Tensor normed = {};  // [T, R, D]
};
WUNENG_KERNEL(boundary_read, BoundaryReadArgs);

// dstates[s, n] += sum over rows and readers of a[t, h] b[t, h]^T. For y = B r: a = dy, b = r; for y = B^T u:
// a = u, b = dy.
struct BoundaryReadGradArgs {
  Tensor a, b, dstates;
  std::vector<Wkv7Segment> segments;
  std::vector<int> head_state;
};
WUNENG_KERNEL(boundary_read_grad, BoundaryReadGradArgs);

}  // namespace wuneng::kernels
