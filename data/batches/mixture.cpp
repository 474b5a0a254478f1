#include "data/batches/mixture.h"

#include <algorithm>
#include <cmath>

#include "runtime/error.h"

namespace wuneng {

Mixture::Mixture(const std::vector<uint64_t>& shares) : share_(shares), rest_(shares) {
  for (size_t i = rest_.size(); i-- > 1;) rest_[i - 1] += rest_[i];
}

Mixture Mixture::of_weights(const std::vector<double>& weights) {
  double total = 0;
  for (const double weight : weights) total += weight;
  std::vector<uint64_t> shares;
  for (const double weight : weights) {
    // 2^40: products with a sequence number fit into 128 bits.
    const double share = std::round(weight / total * 0x1p40);
    require(weight > 0 && std::isfinite(total) && share > 0 && share <= 0x1p40,
            "data: weight {} of a source: expected a number > 0 of at least 2^-41 of the sum {}", weight,
            total);
    shares.push_back(static_cast<uint64_t>(share));
  }
  return Mixture(shares);
}

Draw Mixture::at(int64_t n) const {
  // Draws of source i among the first n numbers that are not assigned to earlier sources.
  const auto drawn = [&](size_t i, int64_t n) {
    using Wide = unsigned __int128;
    return static_cast<int64_t>((static_cast<Wide>(n) * share_[i] + rest_[i] / 2) / rest_[i]);
  };
  for (size_t i = 0; i + 1 < share_.size(); ++i) {
    const int64_t before = drawn(i, n);
    if (drawn(i, n + 1) > before) return {static_cast<int64_t>(i), before};
    n -= before;
  }
  return {static_cast<int64_t>(share_.size()) - 1, n};
}

}  // namespace wuneng
