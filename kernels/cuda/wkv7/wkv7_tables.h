// Index tables of the WKV-7 kernels.
#pragma once
#include <algorithm>

#include "kernels/cuda/common/upload.h"
#include "kernels/wkv7.h"

namespace wuneng::kernels::cuda {

// [segments, 4]: begin, count, first stored state, rows between two stored states.
inline Tensor segment_table(const std::vector<Wkv7Segment>& segments, Device device) {
  const int64_t kept = wkv7_kept(device.kind);
  std::vector<int64_t> flat;
  int64_t group = 0;
  for (const Wkv7Segment& s : segments) {
    flat.insert(flat.end(), {s.begin, s.count, group, kept});
    group += (s.count + kept - 1) / kept;
  }
  return upload(flat, device);
}
// [stored states, 2]: first row, number of rows up to the next stored state.
inline Tensor group_table(const std::vector<Wkv7Segment>& segments, Device device) {
  const int64_t kept = wkv7_kept(device.kind);
  std::vector<int64_t> flat;
  for (const Wkv7Segment& s : segments)
    for (int64_t at = 0; at < s.count; at += kept)
      flat.insert(flat.end(), {s.begin + at, std::min(kept, s.count - at)});
  return upload(flat, device);
}
// [N, 2]: the range [first, last) of readers of each state head.
inline Tensor reader_table(const std::vector<int>& head_state, int64_t N, Device device) {
  std::vector<int32_t> flat(2 * N, 0);
  for (size_t h = 0; h < head_state.size(); ++h) {
    int32_t* range = flat.data() + 2 * head_state[h];
    if (range[1] == 0) range[0] = static_cast<int32_t>(h);
    range[1] = static_cast<int32_t>(h) + 1;
  }
  return upload(flat, device);
}

}  // namespace wuneng::kernels::cuda
