// Which source each number of an endless sequence is drawn from, so that sources keep their shares: exactly
// over the whole, and within one draw a level at every point of the way.
#pragma once
#include <cstdint>
#include <vector>

namespace wuneng {

struct Draw {
  int64_t source;
  int64_t number;  // how many draws of this source came before
};

// A pure function of the shares, with no state and no table: the first source takes the numbers at which
// floor(n share + 1/2) grows, what is left is numbered anew and goes to the others by the same rule. So a
// source's draws come in order, and the place in each source follows from the number alone.
class Mixture {
 public:
  // Whole-number shares. Of the first sum(shares) numbers each source gets exactly its share.
  explicit Mixture(const std::vector<uint64_t>& shares);
  // Any weights > 0, of which 1 means as much as 3 in {3, 3}.
  static Mixture of_weights(const std::vector<double>& weights);

  Draw at(int64_t n) const;

 private:
  std::vector<uint64_t> share_;
  std::vector<uint64_t> rest_;  // the sum of this share and all later ones
};

}  // namespace wuneng
