#include "kernels/attention.h"

#include <algorithm>

namespace wuneng::kernels {

double attention_pairs(const std::vector<AttentionSegment>& segments, int64_t window) {
  const auto up_to = [](double n) { return n * (n + 1) / 2; };  // 1 + 2 + ... + n
  double pairs = 0;
  for (const AttentionSegment& s : segments) {
    // Row i sees offset + i + 1 keys, or the last `window`.
    const double first = double(s.offset), last = double(s.offset + s.q_count);
    const double narrow = window > 0 ? std::clamp(double(window), first, last) : last;
    pairs += up_to(narrow) - up_to(first) + (last - narrow) * double(window);
  }
  return pairs;
}

}  // namespace wuneng::kernels
