// Mixture: assigns each number of an infinite sequence to a source in proportion to weights: exact over a
// whole period, and within one draw per level of the recursion at every point.
#pragma once
#include <cstdint>
#include <vector>

namespace wuneng {

struct Draw {
  int64_t source;
  int64_t number;  // index among the draws of this source
};

// A pure function of the shares, without state or tables: the first source gets the numbers at which floor(n
// share + 1/2) increases; the rest is renumbered and assigned to the other sources by the same rule. So the
// draws of a source are in order, and the index within a source follows from the number alone.
class Mixture {
 public:
  // Integer shares. Of the first sum(shares) numbers each source gets exactly its share.
  explicit Mixture(const std::vector<uint64_t>& shares);
  // Weights > 0 in any scale.
  static Mixture of_weights(const std::vector<double>& weights);

  Draw at(int64_t n) const;

 private:
  std::vector<uint64_t> share_;
  std::vector<uint64_t> rest_;  // the sum of this share and all later ones
};

}  // namespace wuneng
