#include "runtime/cuda/device.h"

#include <map>
#include <mutex>
#include <vector>

#include "runtime/cuda/check.h"
#include "runtime/cuda/waiting.h"

namespace wuneng::cuda {
namespace {

// One GPU as this process uses it. Blocks are kept by their size; sizes are rounded so that a step's second
// run finds what its first left.
class Gpu {
 public:
  explicit Gpu(int index) : index_(index) {
    check(cudaSetDevice(index), "cudaSetDevice");
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  cudaStream_t stream() const { return stream_; }

  void* allocate(int64_t bytes) {
    const std::lock_guard lock(mutex_);
    auto& free = free_[rounded(bytes)];
    if (!free.empty()) {
      void* const memory = free.back();
      free.pop_back();
      return memory;
    }
    void* memory = nullptr;
    cudaError_t code = cudaMalloc(&memory, rounded(bytes));
    if (code == cudaErrorMemoryAllocation) {
      give_back();
      code = cudaMalloc(&memory, rounded(bytes));
    }
    if (code != cudaSuccess) {
      size_t left = 0, total = 0;
      cudaMemGetInfo(&left, &total);
      fail("cuda:{}: out of memory: {} bytes asked for, {} of {} free: {}", index_, bytes, left, total,
           cudaGetErrorString(code));
    }
    return memory;
  }

  void release(void* memory, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    free_[rounded(bytes)].push_back(memory);
  }

 private:
  // Eighths of a power of two above 1 MB, 512 bytes below: at most an eighth of a block is wasted.
  static int64_t rounded(int64_t bytes) {
    int64_t step = 512;
    while (step * 16 <= bytes && bytes >= 1 << 20) step *= 2;
    return (bytes + step - 1) / step * step;
  }

  void give_back() {
    wait_for(stream_);
    for (auto& [size, blocks] : free_)
      for (void* block : blocks) cudaFree(block);
    free_.clear();
  }

  int index_;
  cudaStream_t stream_ = nullptr;
  std::mutex mutex_;
  std::map<int64_t, std::vector<void*>> free_;
};

Gpu& gpu(int index) {
  static std::mutex mutex;
  static std::map<int, Gpu*> all;  // never destroyed: tensors may outlive any static object
  const std::lock_guard lock(mutex);
  Gpu*& one = all[index];
  if (!one) one = new Gpu(index);
  return *one;
}

cudaError_t count_devices(int& count) {
  count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code != cudaSuccess) count = 0;
  return code;
}

}  // namespace

int device_count() {
  int count = 0;
  count_devices(count);
  return count;
}

std::string why_none() {
  int count = 0;
  const cudaError_t code = count_devices(count);
  return code == cudaSuccess ? "the driver lists none" : cudaGetErrorString(code);
}

std::string device_name(int index) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
  return properties.name;
}

std::string bus_id(int index) {
  char text[64];
  check(cudaDeviceGetPCIBusId(text, sizeof text, index), "cudaDeviceGetPCIBusId");
  return text;
}

void* compute_stream(int index) { return gpu(index).stream(); }

void synchronize(int index) { wait_for(gpu(index).stream()); }

void* allocate(int index, int64_t bytes) { return gpu(index).allocate(bytes); }
void release(int index, void* memory, int64_t bytes) { gpu(index).release(memory, bytes); }

void copy(void* to, Device to_device, const void* from, Device from_device, int64_t bytes) {
  const Device device = to_device.kind == DeviceKind::cuda ? to_device : from_device;
  const cudaStream_t stream = gpu(device.index).stream();
  const bool to_host = to_device.kind == DeviceKind::cpu;
  if (to_host) wait_for(stream);  // the copy itself would wait as well, but without a name
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
  if (to_host) check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

void zero(void* at, int index, int64_t bytes) {
  check(cudaMemsetAsync(at, 0, bytes, gpu(index).stream()), "cudaMemsetAsync");
}

}  // namespace wuneng::cuda
