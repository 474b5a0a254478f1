#include <sys/mman.h>
#include <unistd.h>

#include <boost/context/fiber.hpp>
#include <boost/context/fixedsize_stack.hpp>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#include "cuda_runtime.h"
#include "runtime/dtype.h"

namespace emulator {
namespace {

namespace context = boost::context;

constexpr int kWarp = 32;
constexpr size_t kStack = 256 * 1024;

// The stacks of ended fibers, for the next ones.
class StackPool {
 public:
  using traits_type = context::stack_traits;
  context::stack_context allocate() {
    auto& free = pool();
    if (free.empty()) return context::fixedsize_stack(kStack).allocate();
    const context::stack_context top = free.back();
    free.pop_back();
    return top;
  }
  void deallocate(context::stack_context& stack) { pool().push_back(stack); }

 private:
  static std::vector<context::stack_context>& pool() {
    static std::vector<context::stack_context> stacks;
    return stacks;
  }
};

enum class State { ready, at_barrier, at_exchange, ended };

struct Copy {
  void* to;
  const void* from;
  int bytes, count;
};

struct Thread {
  uint3 index;
  State state = State::ready;
  uint64_t value = 0;
  std::vector<Copy> copies;  // under way
  context::fiber fiber;
};

struct Block {
  const std::function<void()>* body = nullptr;
  std::vector<Thread> threads;
  std::vector<uint64_t> exchanged;  // of every thread
  std::vector<char> shared;
  int current = 0;
  uint64_t turn = 1;
  context::fiber scheduler;

  void resume(int t) {
    current = t;
    threadIdx = threads[t].index;
    threads[t].fiber = std::move(threads[t].fiber).resume();
  }

  void run_until_ended() {
    const int count = static_cast<int>(threads.size());
    for (int t = 0; t < count; ++t) {
      threads[t].state = State::ready;
      threads[t].copies.clear();
      threads[t].fiber = context::fiber(std::allocator_arg, StackPool(), [this, t](context::fiber&& back) {
        scheduler = std::move(back);
        (*body)();
        threads[t].state = State::ended;
        return std::move(scheduler);
      });
    }
    const int warps = (count + kWarp - 1) / kWarp;
    std::vector<Lanes> lanes(warps);
    for (int w = 0; w < warps; ++w) lanes[w] = count_lanes(w);
    // Warps in ever another order. Between two barriers they either take turns, or one after another runs as
    // far as it can: a result that rests on a missing barrier does not stay the same.
    bool alone = draw(2);
    for (int w = 0;;) {
      if (!alone || lanes[w].ready == 0) w = next_warp(lanes);
      if (lanes[w].ready > 0) {
        const int first = w * kWarp, last = std::min(count, first + kWarp);
        const bool down = draw(2);
        for (int i = first; i < last; ++i)
          if (const int t = down ? first + last - 1 - i : i; threads[t].state == State::ready) resume(t);
        exchange(w);
        lanes[w] = count_lanes(w);
        continue;
      }
      int ended = 0, at_barrier = 0;
      for (const Lanes& l : lanes) ended += l.ended, at_barrier += l.at_barrier;
      if (ended == count) return;
      if (ended + at_barrier < count) {
        std::fprintf(stderr,
                     "emulator: block (%u, %u, %u): %d threads wait in a barrier, %d have ended, the others "
                     "wait in a warp exchange that nobody joins\n",
                     blockIdx.x, blockIdx.y, blockIdx.z, at_barrier, ended);
        std::abort();
      }
      for (Thread& t : threads)
        if (t.state == State::at_barrier) t.state = State::ready;
      for (int v = 0; v < warps; ++v) lanes[v] = count_lanes(v);
      alone = draw(2);
    }
  }

  struct Lanes {
    int ready = 0, at_barrier = 0, at_exchange = 0, ended = 0;
  };
  Lanes count_lanes(int warp) const {
    Lanes n;
    for (int t = warp * kWarp; t < std::min<int>(threads.size(), (warp + 1) * kWarp); ++t) {
      const State s = threads[t].state;
      n.ready += s == State::ready, n.at_barrier += s == State::at_barrier;
      n.at_exchange += s == State::at_exchange, n.ended += s == State::ended;
    }
    return n;
  }

  // A number below n, the same ones in every run.
  int draw(int n) {
    turn = turn * 6364136223846793005u + 1442695040888963407u;
    return static_cast<int>((turn >> 33) % n);
  }

  // One that can run, or any where none can.
  int next_warp(const std::vector<Lanes>& lanes) {
    const int warps = static_cast<int>(lanes.size()), first = draw(warps);
    for (int i = 0; i < warps; ++i)
      if (const int w = (first + i) % warps; lanes[w].ready > 0) return w;
    return first;
  }

  // A warp's exchange takes place once all of its live lanes wait in it.
  void exchange(int warp) {
    const Lanes n = count_lanes(warp);
    if (n.at_exchange == 0 || n.ready + n.at_barrier > 0) return;
    const int first = warp * kWarp, last = std::min<int>(threads.size(), first + kWarp);
    for (int t = first; t < last; ++t) exchanged[t] = threads[t].value;
    for (int t = first; t < last; ++t)
      if (threads[t].state == State::at_exchange) threads[t].state = State::ready;
  }

  void wait(State state) {
    const int me = current;
    threads[me].state = state;
    scheduler = std::move(scheduler).resume();
    threadIdx = threads[me].index;
  }
};

Block g_block;
std::mutex g_one_launch;

// Device memory: an arena that host code cannot touch, so that a host access ends the program as it would
// with a GPU. Nothing is given back: the program's own allocator keeps what it has.
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
    if (!base_ || used_ + size > kArena) return nullptr;
    char* at = base_ + used_;
    used_ += size;
    const Open open(*this);
    std::memset(at, 0xff, size);
    return at;
  }

  // While it lives (WUNENG_EMULATOR_GUARD=0: from the first on, which is faster), the host may touch device
  // memory: kernels and copies.
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
  char* base_ = nullptr;
  size_t used_ = 0;
  int open_ = 0;
  bool guards_ = true;
};

Arena& arena() {
  static Arena* const one = new Arena;  // outlives every tensor
  return *one;
}

}  // namespace

void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body) {
  catch_up_kernels();
  const std::lock_guard lock(g_one_launch);
  const Arena::Open open(arena());
  blockDim = block, gridDim = grid;
  g_block.body = &body;
  g_block.shared.assign(shared_bytes, static_cast<char>(0xff));  // NaN: not what an earlier block left
  const size_t threads = size_t{block.x} * block.y * block.z;
  if (threads > 1024 || shared_bytes > 227 * 1024) {
    std::fprintf(stderr,
                 "emulator: a block of %zu threads and %zu bytes of shared memory does not fit an H100\n",
                 threads, shared_bytes);
    std::abort();
  }
  g_block.threads.resize(threads);
  g_block.exchanged.assign(threads, 0);
  for (size_t t = 0; t < threads; ++t)
    g_block.threads[t].index = {static_cast<unsigned>(t % block.x),
                                static_cast<unsigned>(t / block.x % block.y),
                                static_cast<unsigned>(t / block.x / block.y)};
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        g_block.run_until_ended();
      }
}

void* shared_memory() { return g_block.shared.data(); }
void barrier() { g_block.wait(State::at_barrier); }
int lane() { return g_block.current % kWarp; }

void as_kernel(const std::function<void()>& work) {
  catch_up_kernels();
  const Arena::Open open(arena());
  work();
}

const uint64_t* gather(uint64_t value) {
  g_block.threads[g_block.current].value = value;
  g_block.wait(State::at_exchange);
  return g_block.exchanged.data() + g_block.current / kWarp * kWarp;
}

namespace {

void check_shared(uint64_t at, int bytes, const char* what) {
  const auto begin = reinterpret_cast<uintptr_t>(g_block.shared.data());
  if (at % bytes == 0 && at >= begin && at + bytes <= begin + g_block.shared.size()) return;
  std::fprintf(stderr, "emulator: %s is not %d bytes of shared memory at a multiple of it\n", what, bytes);
  std::abort();
}

}  // namespace

void load_matrices(unsigned (&m)[4], const void* row, bool transposed) {
  const uint64_t* const rows = gather(reinterpret_cast<uintptr_t>(row));
  for (int i = 0; i < 4; ++i) {
    unsigned banks = 0;  // of 16 bytes
    for (int r = 0; r < 8; ++r) {
      const uint64_t at = rows[8 * i + r];
      check_shared(at, 16, "a matrix's row");
      banks |= 1u << at / 16 % 8;
    }
    if (banks != 0xff) {
      std::fprintf(stderr, "emulator: rows of matrix %d meet in a bank\n", i);
      std::abort();
    }
    const auto element = [&](int r, int c) {
      return unsigned{reinterpret_cast<const uint16_t*>(rows[8 * i + r])[c]};
    };
    const int g = lane() / 4, t = lane() % 4 * 2;
    m[i] = transposed ? element(t, g) | element(t + 1, g) << 16 : element(g, t) | element(g, t + 1) << 16;
  }
}

void copy_async(void* to, const void* from, int bytes, int count) {
  check_shared(reinterpret_cast<uintptr_t>(to), bytes, "a copy's target");
  std::memset(to, 0xff, bytes);
  g_block.threads[g_block.current].copies.push_back({to, from, bytes, count});
}

void wait_for_copies() {
  auto& copies = g_block.threads[g_block.current].copies;
  for (const Copy& c : copies) {
    std::memset(c.to, 0, c.bytes);
    std::memcpy(c.to, c.from, c.count);
  }
  copies.clear();
}

uint64_t exchange(uint64_t value, int source) { return gather(value)[source]; }

}  // namespace emulator

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = emulator::arena().allocate(bytes);
  return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int device) {
  std::snprintf(text, size, "%04x:00:%02x.0", std::getenv("WUNENG_EMULATOR_GPU_PER_RANK") ? getpid() : 0,
                device);
  return cudaSuccess;
}

cudaError_t cudaFree(void*) { return cudaSuccess; }

namespace {

// Page-locked memory: filled as a GPU's, so that what no copy has reached yet is seen.
std::map<const char*, size_t> g_locked;  // sizes, by where they begin

bool is_locked(const void* at) {
  auto after = g_locked.upper_bound(static_cast<const char*>(at));
  if (after == g_locked.begin()) return false;
  --after;
  return static_cast<const char*>(at) < after->first + after->second;
}

}  // namespace

cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  *memory = std::malloc(bytes);
  std::memset(*memory, 0xff, bytes);
  g_locked[static_cast<char*>(*memory)] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* memory) {
  g_locked.erase(static_cast<char*>(memory));
  std::free(memory);
  return cudaSuccess;
}

// Beside the host where its side is page-locked, else done when the call returns.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  const auto copy = [=] {
    const emulator::Arena::Open open(emulator::arena());
    std::memmove(to, from, bytes);
  };
  if (stream && (is_locked(to) || is_locked(from))) return emulator::put(stream, copy), cudaSuccess;
  emulator::catch_up(stream);
  copy();
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t stream) {
  emulator::catch_up(stream);
  const emulator::Arena::Open open(emulator::arena());
  std::memset(at, value, bytes);
  return cudaSuccess;
}
