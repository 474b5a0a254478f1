#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string_view>
#include <vector>

#include "block.h"
#include "cuda_runtime.h"
#include "runtime/dtype.h"

namespace emulator {
namespace {

std::mutex g_one_launch;
size_t g_pinned_limit = SIZE_MAX, g_pinned_held = 0;
int64_t g_pageable_copies = 0;

// Device memory: an arena that is protected from host code, so that a host access faults as on a GPU. Memory
// is not returned to the system: the program has a caching allocator.
constexpr size_t kArena = size_t{1} << 36, kAlign = 4096;

class Arena {
 public:
  Arena() {
    void* at = mmap(nullptr, kArena, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    base_ = at == MAP_FAILED ? nullptr : static_cast<char*>(at);
    const char* guard = std::getenv("WUNENG_EMULATOR_GUARD");
    guards_ = !guard || std::strcmp(guard, "0") != 0;
  }
  void* allocate(size_t bytes) {
    const size_t size = (bytes + kAlign - 1) / kAlign * kAlign;
    if (!base_ || used_ + size > kArena || held_ + size > limit) return nullptr;
    char* at = base_ + used_;
    used_ += size, held_ += size;
    blocks_[at] = {size, current_device()};
    const Open open(*this);
    std::memset(at, 0xff, size);
    return at;
  }
  bool free(void* at) {
    const auto block = blocks_.find(static_cast<char*>(at));
    if (block == blocks_.end()) return false;
    held_ -= block->second.size;
    blocks_.erase(block);
    return true;
  }
  // The device of the block that holds `at`; -1: there is none.
  int device_of(const void* at) const {
    auto after = blocks_.upper_bound(static_cast<const char*>(at));
    if (after == blocks_.begin()) return -1;
    --after;
    return static_cast<const char*>(at) < after->first + after->second.size ? after->second.device : -1;
  }
  size_t held() const { return held_; }
  size_t limit = kArena;  // of bytes that are held

  // Gives access to device memory while it lives, for kernels and copies (with WUNENG_EMULATOR_GUARD=0 from
  // the first one on, which is faster).
  class Open {
   public:
    explicit Open(Arena& arena) : arena_(arena) {
      if (arena_.open_++ == 0) arena_.protect(PROT_READ | PROT_WRITE);
    }
    ~Open() {
      if (--arena_.open_ == 0) arena_.protect(PROT_NONE);
    }
    Open(const Open&) = delete;

   private:
    Arena& arena_;
  };

 private:
  void protect(int how) {
    if (guards_ || how != PROT_NONE) mprotect(base_, used_, how);
  }
  struct Block {
    size_t size;
    int device;
  };
  char* base_ = nullptr;
  std::map<const char*, Block> blocks_;
  size_t used_ = 0, held_ = 0;
  int open_ = 0;
  bool guards_ = true;
};

Arena& arena() {
  static Arena* const one = new Arena;  // never destroyed: tensors may outlive static objects
  return *one;
}

}  // namespace

void limit_memory(int64_t device_bytes, int64_t pinned_bytes) {
  arena().limit = device_bytes < 0 ? kArena : static_cast<size_t>(device_bytes);
  g_pinned_limit = pinned_bytes < 0 ? SIZE_MAX : static_cast<size_t>(pinned_bytes);
}

namespace {

void run_now(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
  const std::lock_guard lock(g_one_launch);
  const Arena::Open open(arena());
  if (grid.y > 65535 || grid.z > 65535) {
    std::fprintf(stderr, "emulator: a grid of %u x %u x %u blocks: y and z are at most 65535\n", grid.x,
                 grid.y, grid.z);
    std::abort();
  }
  blockDim = block, gridDim = grid;
  g_block.body = &body;
  g_block.start(size_t{block.x} * block.y * block.z, block, shared_bytes);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        g_block.run_until_ended();
      }
}

}  // namespace

int64_t pageable_copies() { return g_pageable_copies; }

void with_memory(const std::function<void()>& work) {
  const Arena::Open open(arena());
  work();
}

void run(cudaStream_t stream, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
  if (stream && device_of(stream) != current_device()) {
    returned(cudaErrorInvalidResourceHandle);
    return;
  }
  if (record(stream, [=] { run_now(grid, block, shared_bytes, body); })) return;
  count_launch();
  stream ? catch_up(stream) : catch_up_kernels();
  run_now(grid, block, shared_bytes, body);
}

void as_kernel(cudaStream_t stream, const std::function<void()>& work) {
  if (record(stream, [=] { with_memory(work); })) return;
  count_launch();
  catch_up_kernels();
  with_memory(work);
}

}  // namespace emulator

// A small device where ranks have one each: what is given is filled at once.
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total =
      std::min(emulator::arena().limit, size_t{1} << (std::getenv("WUNENG_EMULATOR_GPU_PER_RANK") ? 28 : 34));
  *free = *total - std::min(*total, emulator::arena().held());
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  emulator::require_no_messages("cudaMalloc");
  *memory = emulator::arena().allocate(bytes);
  return emulator::returned(*memory ? cudaSuccess : cudaErrorMemoryAllocation);
}

cudaError_t cudaFree(void* memory) {
  emulator::require_no_messages("cudaFree");
  return emulator::returned(emulator::arena().free(memory) ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* device_memory) {
  attributes->device = emulator::arena().device_of(device_memory);
  return emulator::returned(attributes->device >= 0 ? cudaSuccess : cudaErrorInvalidValue);
}

namespace {

// Pinned memory: filled with NaN like device memory, so that reads before a copy are detected.
std::map<const char*, size_t> g_pinned;  // sizes, by address

bool is_pinned(const void* at) {
  auto after = g_pinned.upper_bound(static_cast<const char*>(at));
  if (after == g_pinned.begin()) return false;
  --after;
  return static_cast<const char*>(at) < after->first + after->second;
}

}  // namespace

cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  emulator::require_no_messages("cudaHostAlloc");
  using emulator::g_pinned_held;
  if (g_pinned_held + bytes > emulator::g_pinned_limit) return emulator::returned(cudaErrorMemoryAllocation);
  g_pinned_held += bytes;
  *memory = std::malloc(bytes);
  std::memset(*memory, 0xff, bytes);
  g_pinned[static_cast<char*>(*memory)] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* memory) {
  emulator::require_no_messages("cudaFreeHost");
  const auto block = g_pinned.find(static_cast<char*>(memory));
  if (block == g_pinned.end()) return emulator::returned(cudaErrorInvalidValue);
  emulator::g_pinned_held -= block->second;
  g_pinned.erase(block);
  std::free(memory);
  return cudaSuccess;
}

// Asynchronous if the host memory is pinned, else synchronous. Aborts where pinned memory was rewritten
// before its copy ran.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  const bool from_pinned = is_pinned(from),
             on_devices = emulator::arena().device_of(to) >= 0 && emulator::arena().device_of(from) >= 0;
  const auto content = [=] { return std::hash<std::string_view>()({static_cast<const char*>(from), bytes}); };
  const auto copy = [=, expected = from_pinned ? content() : 0] {
    if (from_pinned && content() != expected) {
      std::fprintf(stderr, "emulator: %zu bytes of pinned memory were rewritten before their copy ran\n",
                   bytes);
      std::abort();
    }
    emulator::with_memory([=] { std::memmove(to, from, bytes); });
  };
  if (emulator::is_recorded(stream)) {
    if (!on_devices) return emulator::returned(cudaErrorStreamCaptureUnsupported);
    return emulator::record(stream, copy), cudaSuccess;
  }
  emulator::count_launch();
  if (stream && (is_pinned(to) || from_pinned)) return emulator::put(stream, copy), cudaSuccess;
  if (!on_devices) ++emulator::g_pageable_copies;
  emulator::catch_up(stream);
  copy();
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t stream) {
  const auto fill = [=] { emulator::with_memory([=] { std::memset(at, value, bytes); }); };
  if (emulator::record(stream, fill)) return cudaSuccess;
  emulator::count_launch();
  emulator::catch_up(stream);
  fill();
  return cudaSuccess;
}
