// Checks the status of a CUDA call.
#pragma once
#include <cuda_runtime.h>

#include "runtime/error.h"

namespace wuneng::cuda {

// Throws with the name of the call.
inline void check(cudaError_t code, const char* call) {
  if (code != cudaSuccess) fail("{}: {} ({})", call, cudaGetErrorName(code), cudaGetErrorString(code));
}

// For calls that may fail: CUDA keeps an error as the thread's last one, which the check after the next
// launch would report under that kernel's name.
inline cudaError_t tolerated(cudaError_t code) {
  if (code != cudaSuccess) cudaGetLastError();
  return code;
}

}  // namespace wuneng::cuda
