// mbarriers, tensor copies that complete on them, and named barriers: see cuda.h.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <unordered_map>

#include "block.h"
#include "hopper.h"

namespace emulator {
namespace {

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "emulator: %s\n", what);
  std::abort();
}

struct Mbarrier {
  unsigned count;        // arrivals of a phase
  unsigned pending;      // arrivals that are still expected
  int64_t bytes = 0;     // still expected; negative if copies completed before expect_tx
  unsigned phase = 0;    // its parity
  int initialiser = -1;  // the initialising thread until its fence
};

// The content of a CUtensorMap.
struct TiledMap {
  const char* address;
  std::array<uint64_t, 4> dims, strides;  // bytes; of dimension 0 the element size
  std::array<uint32_t, 4> box;
  bool swizzled;

  int64_t bytes() const { return strides[0] * box[0] * box[1] * box[2] * box[3]; }
};
static_assert(sizeof(TiledMap) <= sizeof(CUtensorMap));

struct TensorCopy {
  TiledMap map;
  std::array<int, 4> from;
  char* to;
  uint64_t* barrier;
};

struct NamedBarrier {
  int arrived = 0, threads = 0;
  uint64_t generation = 0;
};

std::unordered_map<uint64_t*, Mbarrier> g_mbarriers;
std::vector<TensorCopy> g_copies;
std::array<NamedBarrier, 16> g_named;
std::vector<char> g_seen;

Mbarrier& mbarrier_at(uint64_t* at) {
  const auto found = g_mbarriers.find(at);
  if (found == g_mbarriers.end()) fail("a barrier in shared memory is used before it is initialised");
  if (found->second.initialiser >= 0 && found->second.initialiser != g_block.current)
    fail("a barrier in shared memory is used before the fence of its initialisation");
  return found->second;
}

void end_phase_if_done(Mbarrier& b) {
  if (b.pending > 0 || b.bytes != 0) return;
  b.phase ^= 1, b.pending = b.count;
  g_block.happened();
}

}  // namespace

char* seen_by_products() { return g_seen.data(); }

void reset_hopper() {
  g_mbarriers.clear(), g_copies.clear(), g_named = {};
  g_seen.assign(g_block.shared_size(), static_cast<char>(0xff));
  begin_wgmma();
}

uint32_t shared_address(const void* at) {
  return static_cast<uint32_t>(static_cast<const char*>(at) - g_block.shared()) + kFirstShared;
}

void mbarrier_init(uint64_t* barrier, unsigned count) {
  g_block.check_shared(barrier, 8, 8, "a barrier");
  g_mbarriers[barrier] = {count, count, 0, 0, g_block.current};
}

void mbarrier_init_fence() {
  for (auto& [at, b] : g_mbarriers)
    if (b.initialiser == g_block.current) b.initialiser = -1;
}

void mbarrier_arrive(uint64_t* barrier, unsigned expected_bytes) {
  Mbarrier& b = mbarrier_at(barrier);
  b.bytes += expected_bytes, --b.pending;
  end_phase_if_done(b);
  g_block.yield_to_others();
}

void mbarrier_wait(uint64_t* barrier, unsigned parity) {
  g_block.wait(State::ready);
  Mbarrier& b = mbarrier_at(barrier);
  g_block.wait_until("a phase of a barrier in shared memory", [&b, parity] { return b.phase != parity; });
}

void tensor_copy(void* to, const CUtensorMap* map, uint64_t* barrier, const int (&from)[4]) {
  TensorCopy copy{{}, {from[0], from[1], from[2], from[3]}, static_cast<char*>(to), barrier};
  std::memcpy(&copy.map, map, sizeof copy.map);
  mbarrier_at(barrier);
  const int64_t bytes = copy.map.bytes();
  g_block.check_shared(to, bytes, copy.map.swizzled ? 1024 : 128, "a tensor copy's target");
  std::memset(to, 0xff, bytes);
  std::memset(g_seen.data() + (copy.to - g_block.shared()), 0xff, bytes);
  g_copies.push_back(copy);
  g_block.wait(State::ready);
}

bool complete_tensor_copy() {
  if (g_copies.empty()) return false;
  const size_t which = g_block.draw(static_cast<int>(g_copies.size()));
  const TensorCopy copy = g_copies[which];
  g_copies.erase(g_copies.begin() + which);
  const TiledMap& m = copy.map;
  const uint64_t size = m.strides[0];
  int64_t at = 0;  // in the box
  for (uint32_t d = 0; d < m.box[3]; ++d)
    for (uint32_t c = 0; c < m.box[2]; ++c)
      for (uint32_t b = 0; b < m.box[1]; ++b)
        for (uint32_t a = 0; a < m.box[0]; ++a, at += size) {
          const std::array<uint32_t, 4> in_box = {a, b, c, d};
          bool inside = true;
          int64_t offset = 0;
          for (int i = 0; i < 4; ++i) {
            const int64_t x = int64_t{copy.from[i]} + in_box[i];
            inside = inside && x >= 0 && x < static_cast<int64_t>(m.dims[i]);
            offset += x * static_cast<int64_t>(m.strides[i]);
          }
          char* const to = copy.to + (m.swizzled ? swizzle_128(static_cast<uint32_t>(at)) : at);
          if (inside)
            std::memcpy(to, m.address + offset, size);
          else
            std::memset(to, 0, size);
        }
  std::memcpy(g_seen.data() + (copy.to - g_block.shared()), copy.to, at);
  Mbarrier& barrier = g_mbarriers.at(copy.barrier);
  barrier.bytes -= at;
  end_phase_if_done(barrier);
  return true;
}

void async_fence() { std::memcpy(g_seen.data(), g_block.shared(), g_seen.size()); }

void named_barrier(int id, int threads, bool waits) {
  if (id < 1 || id > 15 || threads % kWarp != 0)
    fail("named barrier: expected an id from 1 to 15 and a multiple of 32 threads");
  NamedBarrier& b = g_named[id];
  if (b.arrived > 0 && b.threads != threads) fail("named barrier: threads disagree on the number of threads");
  b.threads = threads;
  const uint64_t mine = b.generation;
  if (++b.arrived == threads) {
    b.arrived = 0, ++b.generation;
    g_block.happened();
  }
  if (waits) g_block.wait_until("a named barrier", [&b, mine] { return b.generation != mine; });
}

}  // namespace emulator

using namespace emulator;

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                                const cuuint64_t* dims, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* element_strides, CUtensorMapInterleave interleave,
                                CUtensorMapSwizzle swizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  // The supported cases, with NVIDIA's constraints.
  const bool wide = type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32, swizzled = swizzle == CU_TENSOR_MAP_SWIZZLE_128B;
  const uint64_t size = wide ? 4 : 2;
  bool good = rank == 4 && interleave == CU_TENSOR_MAP_INTERLEAVE_NONE &&
              reinterpret_cast<uintptr_t>(address) % 16 == 0 && size * box[0] % 16 == 0 &&
              (!swizzled || size * box[0] == 128);
  TiledMap tiled{static_cast<const char*>(address), {}, {size}, {}, swizzled};
  for (int i = 0; i < 4 && good; ++i) {
    good = dims[i] > 0 && dims[i] <= uint64_t{1} << 32 && box[i] > 0 && box[i] <= 256 &&
           element_strides[i] == 1 &&
           (i == 3 || (strides[i] % 16 == 0 && strides[i] > 0 && strides[i] < uint64_t{1} << 40));
    tiled.dims[i] = dims[i], tiled.box[i] = box[i];
    if (i < 3) tiled.strides[i + 1] = strides[i];
  }
  if (!good) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(map, &tiled, sizeof tiled);
  return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned,
                                             unsigned long long, cudaDriverEntryPointQueryResult* result) {
  const bool known = std::strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
  *function = known ? reinterpret_cast<void*>(&cuTensorMapEncodeTiled) : nullptr;
  *result = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
