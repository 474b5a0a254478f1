#include "runtime/cuda/device.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "runtime/arena.h"
#include "runtime/cuda/check.h"
#include "runtime/cuda/graph_memory.h"
#include "runtime/cuda/upload_ring.h"
#include "runtime/cuda/waiting.h"

namespace wuneng::cuda {
namespace {

constexpr int64_t kReservedPinned = int64_t{1} << 28;

// Free blocks by size. Sizes are rounded, so that blocks are reused for similar sizes.
class Blocks {
 public:
  // Multiples of an eighth of a power of two from 1 MB on (at most an eighth is wasted), of 512 bytes below.
  static int64_t rounded(int64_t bytes) {
    int64_t step = 512;
    while (step * 16 <= bytes && bytes >= 1 << 20) step *= 2;
    return (bytes + step - 1) / step * step;
  }
  void* take(int64_t bytes) {  // null if there is none
    auto& free = free_[rounded(bytes)];
    if (free.empty()) return nullptr;
    void* const memory = free.back();
    free.pop_back();
    return memory;
  }
  void put(void* memory, int64_t bytes) { free_[rounded(bytes)].push_back(memory); }
  template <class F>
  void drop_all(const F& drop) {  // drop(memory, size)
    for (auto& [size, blocks] : free_)
      for (void* block : blocks) drop(block, size);
    free_.clear();
  }

 private:
  std::map<int64_t, std::vector<void*>> free_;
};

}  // namespace

struct GraphMemory {
  Blocks free;
};

namespace {

// A block that was taken from the driver at the start, and how it is shared out.
struct Reserved {
  char* memory;
  Arena arena;

  int64_t most = 0;  // bytes that were in use together

  void* take(int64_t bytes) {
    const auto offset = arena.take(bytes);
    most = std::max(most, arena.size() - arena.free_bytes());
    return offset ? memory + *offset : nullptr;
  }
  bool has(const void* at) const { return at >= memory && at < memory + arena.size(); }
  void put(void* at, int64_t bytes) { arena.put(static_cast<char*>(at) - memory, bytes); }
};

// One GPU as this process uses it.
class Gpu {
 public:
  explicit Gpu(int index) : index_(index) {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    multiprocessors_ = attribute(cudaDevAttrMultiProcessorCount);
    compute_capability_ =
        10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
  }
  cudaStream_t stream() const { return stream_; }
  int multiprocessors() const { return multiprocessors_; }
  int compute_capability() const { return compute_capability_; }
  int persistent_blocks() const { return multiprocessors_ - std::min(kept_free_, multiprocessors_ / 2); }
  void keep_free(int count) { kept_free_ = std::max(kept_free_, count); }

  void* allocate(int64_t bytes) {
    const std::lock_guard lock(mutex_);
    if (!recording_) return take(bytes);
    if (void* const memory = recording_->free.take(bytes)) return memory;
    void* const memory = take(Blocks::rounded(bytes));  // for whatever has that size
    graphs_[memory] = recording_;
    return memory;
  }

  void release(void* memory, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    if (const auto graph = graphs_.find(memory); graph != graphs_.end())
      graph->second->free.put(memory, bytes);
    else
      put(memory, bytes);
  }

  void begin_recording(std::shared_ptr<GraphMemory> memory) {
    const std::lock_guard lock(mutex_);
    recording_ = std::move(memory);
  }
  void end_recording() {
    const std::lock_guard lock(mutex_);
    recording_ = nullptr;
  }
  bool is_recording() {
    const std::lock_guard lock(mutex_);
    return recording_ != nullptr;
  }
  void* upload_beside_recording(const void* from, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    void* const to = take(bytes);
    if (!beside_)
      check(cudaStreamCreateWithFlags(&beside_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, beside_), "cudaMemcpyAsync");
    check(cudaStreamSynchronize(beside_), "cudaStreamSynchronize");
    return to;
  }
  void release(GraphMemory& memory) {
    const std::lock_guard lock(mutex_);
    memory.free.drop_all([&](void* block, int64_t size) {
      graphs_.erase(block);
      put(block, size);
    });
  }

 private:
  void* take(int64_t bytes) {
    if (void* const memory = free_.take(bytes)) return memory;
    if (reserved_) {
      if (void* const memory = reserved_->take(bytes)) return memory;
      fail(
          "cuda:{}: out of memory: {} bytes requested, {} of the {} bytes of run.gpu_memory free, {} of them "
          "together",
          index_, bytes, reserved_->arena.free_bytes(), reserved_->arena.size(), reserved_->arena.largest());
    }
    void* memory = nullptr;
    cudaError_t code = tolerated(cudaMalloc(&memory, Blocks::rounded(bytes)));
    if (code == cudaErrorMemoryAllocation) {
      wait_for(stream_);
      free_.drop_all([](void* block, int64_t) { check(cudaFree(block), "cudaFree"); });
      code = tolerated(cudaMalloc(&memory, Blocks::rounded(bytes)));
    }
    if (code != cudaSuccess) {
      size_t left = 0, total = 0;
      tolerated(cudaMemGetInfo(&left, &total));
      fail("cuda:{}: out of memory: {} bytes requested, {} of {} free: {}", index_, bytes, left, total,
           cudaGetErrorString(code));
    }
    return memory;
  }

  void put(void* memory, int64_t bytes) {
    reserved_ && reserved_->has(memory) ? reserved_->put(memory, bytes) : free_.put(memory, bytes);
  }

 public:
  // From the host, whose memory may change at once.
  void upload(void* to, const void* from, int64_t bytes) {
    const std::lock_guard lock(ring_mutex_);
    ring_.copy(to, from, bytes, stream_);
  }

  void reserve(double share) {
    const std::lock_guard lock(mutex_);
    if (reserved_) return;
    size_t left = 0, total = 0;
    check(cudaMemGetInfo(&left, &total), "cudaMemGetInfo");
    const auto bytes = static_cast<int64_t>(share * double(left));
    void* memory = nullptr;
    if (tolerated(cudaMalloc(&memory, bytes)) != cudaSuccess)
      fail("cuda:{}: out of memory: run.gpu_memory asks for {} bytes, {} of {} free", index_, bytes, left,
           total);
    reserved_.emplace(static_cast<char*>(memory), Arena(bytes));
  }

 private:
  int attribute(cudaDeviceAttr which) const {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, index_), "cudaDeviceGetAttribute");
    return value;
  }

  int index_;
  int multiprocessors_ = 0, compute_capability_ = 0, kept_free_ = 0;
  cudaStream_t stream_ = nullptr, beside_ = nullptr;
  std::mutex mutex_;
  Blocks free_;
  std::optional<Reserved> reserved_;
  std::shared_ptr<GraphMemory> recording_;                          // null: nothing is recorded
  std::unordered_map<void*, std::shared_ptr<GraphMemory>> graphs_;  // of blocks that belong to one
  std::mutex ring_mutex_;
  UploadRing ring_;
};

// Pinned host memory. Copies are asynchronous, so a released block is free when its last copy has ended.
class PinnedMemory {
 public:
  void* allocate(int64_t bytes) {
    const std::lock_guard lock(mutex_);
    std::erase_if(used_, [&](const Used& u) {
      if (!u.last.completed()) return false;
      reserved_ && reserved_->has(u.memory) ? reserved_->put(u.memory, u.bytes)
                                            : free_.put(u.memory, u.bytes);
      return true;
    });
    if (void* const memory = free_.take(bytes)) return memory;
    if (reserved_) return reserved_->take(bytes);
    void* memory = nullptr;
    cudaError_t code = tolerated(cudaHostAlloc(&memory, Blocks::rounded(bytes), cudaHostAllocPortable));
    if (code == cudaErrorMemoryAllocation) {
      free_.drop_all([&](void* block, int64_t size) {
        check(cudaFreeHost(block), "cudaFreeHost");
        held_ -= size;
      });
      code = tolerated(cudaHostAlloc(&memory, Blocks::rounded(bytes), cudaHostAllocPortable));
    }
    if (code != cudaSuccess)
      fail("out of pinned memory: {} bytes requested, {} held: {}", bytes, held_, cudaGetErrorString(code));
    held_ += Blocks::rounded(bytes);
    return memory;
  }

  void release(void* memory, int64_t bytes, const Event& last) {
    const std::lock_guard lock(mutex_);
    used_.push_back({memory, bytes, last});
  }

  void reserve(int64_t bytes) {
    const std::lock_guard lock(mutex_);
    if (reserved_) return;
    void* memory = nullptr;
    check(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable), "cudaHostAlloc");
    reserved_.emplace(static_cast<char*>(memory), Arena(bytes));
  }

  int64_t held() {
    const std::lock_guard lock(mutex_);
    return held_ + (reserved_ ? reserved_->most : 0);
  }

 private:
  struct Used {
    void* memory;
    int64_t bytes;
    Event last;
  };
  std::mutex mutex_;
  Blocks free_;
  std::vector<Used> used_;
  std::optional<Reserved> reserved_;
  int64_t held_ = 0;
};

PinnedMemory& pinned_memory() {
  static PinnedMemory* const one =
      new PinnedMemory;  // never destroyed: used during the destruction of static objects
  return *one;
}

// The GPU, which becomes the calling thread's current one: memory, streams and kernels belong to that.
Gpu& gpu(int index) {
  static std::mutex mutex;
  static std::map<int, Gpu*> all;  // never destroyed: tensors may outlive any static object
  const std::lock_guard lock(mutex);
  make_current(index);
  Gpu*& one = all[index];
  if (!one) one = new Gpu(index);
  return *one;
}

cudaError_t count_devices(int& count) {
  count = 0;
  const cudaError_t code = tolerated(cudaGetDeviceCount(&count));
  if (code != cudaSuccess) count = 0;
  return code;
}

}  // namespace

void set_driver_environment(bool messages) {
  // Streams share a few hardware queues, by default 8: work in one stream could wait for unrelated work in
  // another, such as a message that waits for its receiver.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
  // By default a kernel is loaded at its first launch, and the driver may wait for the GPU to be idle: a
  // deadlock if a pending message waits for work that this host has yet to launch. A collective waits only
  // for what its ranks have launched before. Eager loading takes all of cublasLt's and NCCL's kernels too.
  if (messages) setenv("CUDA_MODULE_LOADING", "EAGER", 0);
  // By default (from 2.22 on) NCCL connects ranks, and allocates memory, at their first call.
  setenv("NCCL_RUNTIME_CONNECT", "0", 0);
}

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

void make_current(int index) {
  thread_local int current = -1;
  if (current != index) check(cudaSetDevice(index), "cudaSetDevice");
  current = index;
}

int multiprocessors(int index) { return gpu(index).multiprocessors(); }

int persistent_blocks(int index) { return gpu(index).persistent_blocks(); }
void keep_free(int index, int multiprocessors) { gpu(index).keep_free(multiprocessors); }

int compute_capability(int index) { return gpu(index).compute_capability(); }

std::string bus_id(int index) {
  char text[64];
  check(cudaDeviceGetPCIBusId(text, sizeof text, index), "cudaDeviceGetPCIBusId");
  return text;
}

void* compute_stream(int index) { return gpu(index).stream(); }

void synchronize(int index) { wait_for(gpu(index).stream()); }

void reserve(int index, double share) {
  gpu(index).reserve(share);
  pinned_memory().reserve(kReservedPinned);
}

void* allocate(int index, int64_t bytes) { return gpu(index).allocate(bytes); }
void release(int index, void* memory, int64_t bytes) { gpu(index).release(memory, bytes); }

std::shared_ptr<GraphMemory> make_graph_memory() { return std::make_shared<GraphMemory>(); }
void begin_graph_memory(int index, const std::shared_ptr<GraphMemory>& memory) {
  gpu(index).begin_recording(memory);
}
void end_graph_memory(int index) { gpu(index).end_recording(); }
bool is_recording(int index) { return gpu(index).is_recording(); }
std::shared_ptr<void> upload_beside_recording(int index, const void* from, int64_t bytes) {
  return {gpu(index).upload_beside_recording(from, bytes), [=](void* at) { release(index, at, bytes); }};
}
void release_graph_memory(int index, const std::shared_ptr<GraphMemory>& memory) {
  gpu(index).release(*memory);
}

void* allocate_pinned(int64_t bytes) { return pinned_memory().allocate(bytes); }
void release_pinned(void* memory, int64_t bytes, const Event& last_use) {
  pinned_memory().release(memory, bytes, last_use);
}
int64_t pinned_bytes() { return pinned_memory().held(); }

Event copy_pinned(void* to, const void* from, int64_t bytes, int index) {
  const cudaStream_t stream = gpu(index).stream();
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
  return Event::record(stream);
}

void copy(void* to, Device to_device, const void* from, Device from_device, int64_t bytes) {
  const Device device = to_device.kind == DeviceKind::cuda ? to_device : from_device;
  const cudaStream_t stream = gpu(device.index).stream();
  const bool to_host = to_device.kind == DeviceKind::cpu;
  require(to_device == from_device || !is_recording(device.index),
          "cuda:{}: a copy of {} bytes from {} to {} cannot be recorded", device.index, bytes,
          to_string(from_device), to_string(to_device));
  if (from_device.kind == DeviceKind::cpu && bytes <= UploadRing::kSegment)
    return gpu(device.index).upload(to, from, bytes);
  if (to_host) wait_for(stream);  // cudaStreamSynchronize below would wait without a hang report
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
  if (to_host) check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

void zero(void* at, int index, int64_t bytes) {
  check(cudaMemsetAsync(at, 0, bytes, gpu(index).stream()), "cudaMemsetAsync");
}

}  // namespace wuneng::cuda
