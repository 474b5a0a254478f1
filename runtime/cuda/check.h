// Checks the status of a CUDA call; throws with the name of the call.
#pragma once
#include <cuda_runtime.h>

#include "runtime/error.h"

namespace wuneng::cuda {

inline void check(cudaError_t code, const char* call) {
  if (code != cudaSuccess) fail("{}: {} ({})", call, cudaGetErrorName(code), cudaGetErrorString(code));
}

}  // namespace wuneng::cuda
