// Devices, the current one of each thread, and each thread's last error.
#include <cstdio>
#include <cstdlib>

#include "cuda_runtime.h"

namespace emulator {
namespace {

thread_local int t_device = 0;
thread_local cudaError_t t_last = cudaSuccess;

int device_count() {
  if (!std::getenv("WUNENG_EMULATOR_GPU_PER_RANK")) return 1;
  const char* ranks = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  return ranks ? std::atoi(ranks) : 1;
}

}  // namespace

cudaError_t returned(cudaError_t code) {
  if (code != cudaSuccess) t_last = code;
  return code;
}

int current_device() { return t_device; }

}  // namespace emulator

using emulator::returned;

cudaError_t cudaGetLastError() {
  const cudaError_t last = emulator::t_last;
  emulator::t_last = cudaSuccess;
  return last;
}

const char* cudaGetErrorString(cudaError_t code) {
  switch (code) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    default:
      return "invalid argument";
  }
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = emulator::device_count();
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= emulator::device_count()) return returned(cudaErrorInvalidDevice);
  emulator::t_device = device;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int device) {
  if (device < 0 || device >= emulator::device_count()) return returned(cudaErrorInvalidDevice);
  std::snprintf(text, size, "0000:%02x:00.0", device);
  return cudaSuccess;
}
