// Which algorithm a matrix product on a GPU takes: the first one of cublasLt's heuristic, or the fastest of
// several, by time. Algorithms may add in another order, so that ranks which compute the same must choose the
// same: parallel/product_choices.h has them agree.
//
// A product's text names its shape, types, strides and alignments, the GPU's model and cublasLt's version: an
// algorithm that is the fastest for a text on one rank can be chosen on another. On the CPU there is none.
#pragma once
#include <string>
#include <vector>

#include "runtime/device.h"

namespace wuneng::kernels {

#ifdef WUNENG_WITH_CUDA
namespace cuda {
std::vector<std::string> untimed_products(const Stream& stream);
std::string fastest_algorithm(const Stream& stream, const std::string& product);
bool choose_algorithm(const Stream& stream, const std::string& product, const std::string& algorithm);
}  // namespace cuda
#endif

// The products that the stream has computed and whose algorithm has not been chosen by time, in order.
inline std::vector<std::string> untimed_products([[maybe_unused]] const Stream& stream) {
#ifdef WUNENG_WITH_CUDA
  if (stream.device.kind == DeviceKind::cuda) return cuda::untimed_products(stream);
#endif
  return {};
}

#ifdef WUNENG_WITH_CUDA
using cuda::choose_algorithm;
using cuda::fastest_algorithm;
#else
inline std::string fastest_algorithm(const Stream&, const std::string&) { return {}; }
inline bool choose_algorithm(const Stream&, const std::string&, const std::string&) { return false; }
#endif
// fastest_algorithm: times up to 16 algorithms for one of these products, on zeros, in the stream, for which
// the host waits. The heuristic's first one stays unless another takes 3% less. Empty: there is no room for
// the operands.
// choose_algorithm: from now on this stream computes the product, where it is one of untimed_products(), by
// that algorithm; empty: by the one that it has. Returns whether that is another than before.

}  // namespace wuneng::kernels
