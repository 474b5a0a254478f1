#include "kernels/top_k.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "kernels/cpu/simd.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

// The candidates of one row.
struct Candidates {
  std::vector<float> x;  // times the factor
  std::vector<int32_t> ids;
  std::vector<float> rests;

  Candidates(const TopKArgs& args, int64_t row) {
    const int64_t S = args.x.dim(0), C = args.x.dim(1), stride = args.x.dim(2), N = stride - args.has_rest;
    x.reserve(S * N), ids.reserve(S * N);
    for (int64_t s = 0; s < S; ++s) {
      const float* from = args.x.f32() + (s * C + row) * stride;
      for (int64_t n = 0; n < N; ++n) {
        x.push_back(args.factor * from[n]);
        ids.push_back(args.ids.defined() ? args.ids.data<int32_t>()[(s * C + row) * N + n]
                                         : static_cast<int32_t>(args.first + n));
      }
      if (args.has_rest) rests.push_back(from[N]);
    }
  }
  uint64_t key(size_t i) const { return top_k_key(std::bit_cast<uint32_t>(x[i]), ids[i]); }
  // The k largest, in order.
  std::vector<uint64_t> largest(size_t k) const {
    std::vector<uint64_t> heap;  // its front is the smallest
    const auto greater = std::greater<uint64_t>();
    for (size_t i = 0; i < x.size(); ++i) {
      const uint64_t candidate = key(i);
      if (heap.size() == k && candidate < heap.front()) continue;
      if (heap.size() == k) {
        std::pop_heap(heap.begin(), heap.end(), greater);
        heap.pop_back();
      }
      heap.push_back(candidate);
      std::push_heap(heap.begin(), heap.end(), greater);
    }
    std::sort(heap.begin(), heap.end(), greater);
    return heap;
  }
};

}  // namespace

void top_k(const Stream&, const TopKArgs& args) {
  const int64_t C = args.top.dim(0), k = args.top.dim(1) - 1;
  WUNENG_ASSERT(k >= 1 && k <= kMostTopK && args.x.dim(1) == C && args.top_ids.shape() == (Shape{C, k}));
  parallel_for(C, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const Candidates all(args, row);
      const std::vector<uint64_t> chosen = all.largest(static_cast<size_t>(k));
      float* top = args.top.f32() + row * (k + 1);
      int32_t* ids = args.top_ids.data<int32_t>() + row * k;
      std::fill_n(top, k, kNone);
      std::fill_n(ids, k, kNoId);
      float largest = kNone;  // of the rest
      for (size_t i = 0; i < all.x.size(); ++i) {
        const uint64_t key = all.key(i);
        if (!chosen.empty() && key >= chosen.back()) {
          const auto at = std::find(chosen.begin(), chosen.end(), key) - chosen.begin();
          top[at] = all.x[i], ids[at] = all.ids[i];
        } else {
          largest = std::max(largest, all.x[i]);
        }
      }
      for (const float rest : all.rests) largest = std::max(largest, rest);
      double sum = 0;
      for (const float rest : all.rests)
        if (rest != kNone) sum += std::exp(double(rest) - largest);
      if (largest != kNone)
        for (size_t i = 0; i < all.x.size(); ++i)
          if (all.key(i) < chosen.back()) sum += exp_fast(all.x[i] - largest);
      const double rest = sum == 0 ? double(kNone) : largest + std::log(sum);
      double whole = 0;
      if (args.normalize) {
        const double most = std::max<double>(top[0], rest);
        double total = std::exp(rest - most);
        for (int64_t j = 0; j < k; ++j) total += std::exp(double(top[j]) - most);
        whole = most + std::log(total);
        for (int64_t j = 0; j < k; ++j) top[j] = static_cast<float>(top[j] - whole);
      }
      top[k] = static_cast<float>(rest - whole);
    }
  });
}

}  // namespace wuneng::kernels::cpu
