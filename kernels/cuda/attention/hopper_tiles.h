// What the kernels of hopper_attention.h have in common. A block has three warpgroups: one thread of the last
// copies tiles into rings, and each of the others owns 64 rows of the block's tile of 128, with registers of
// those that the third gives. A block stays on its multiprocessor and takes tile after tile, so that what the
// next one needs is copied while the sums of one are written.
#pragma once
#include "kernels/cuda/attention/flash_problem.h"
#include "kernels/cuda/common/ring.h"
#include "kernels/cuda/common/tensor_map.h"
#include "kernels/cuda/common/wgmma.h"
#include "runtime/cuda/device.h"

namespace wuneng::kernels::cuda::hopper {

using namespace flash;

inline constexpr int kGroups = 2;  // warpgroups that compute
inline constexpr int kBlockRows = kGroups * 64;
inline constexpr int kBlockThreads = (kGroups + 1) * kWarpgroup;
inline constexpr int kGroupWarps = kWarpgroup / kWarp, kReaders = kGroups * kGroupWarps;
inline constexpr int kOwnBarrier = 1, kTurnBarrier = kOwnBarrier + kGroups;  // the first group's; + group
static_assert(kBlockRows == kQueryRows);

__device__ inline int group_of_block() { return threadIdx.x / kWarpgroup; }
// The warp's first row, in the block's tile.
__device__ inline int row_of_warp() { return 16 * warp_of_block(); }

// The tiles of a launch, numbered by falling work. Blocks take the next one from a counter: one that starts
// late, because messages between GPUs had its multiprocessor, finds less left to do.
struct Tiles {
  int count;
  int* taken;  // in global memory, 0 at first
};

// A block's tiles, each a T with the block's own rows, on their way from the thread that copies.
template <class T>
struct TileRing {
  struct Slot {
    bool any;  // false: there are no more
    T tile;
  };
  static constexpr int kBytes = 8 * Ring<1>::kBarriers + (sizeof(Slot) + 15) / 16 * 16;
  Ring<1> rows;

  __device__ void init() const { rows.init(kReaders); }
  // The copying thread: copy(round, tile), which announces the turn `round` of rows, for each number of which
  // find(number, tile) makes a tile.
  template <class Find, class Copy>
  __device__ void deal(const Tiles& tiles, Find find, Copy copy) const {
    for (int round = 0;; ++round) {
      T tile{};
      int number;
      do number = atomicAdd(tiles.taken, 1);
      while (number < tiles.count && !find(number, tile));
      rows.wait_free(round);
      slot() = {number < tiles.count, tile};
      if (number >= tiles.count) {
        rows.announce(round, 0);
        return;
      }
      copy(round, tile);
    }
  }
  // The others: f(round, tile), which releases that turn.
  template <class F>
  __device__ void take(F f) const {
    for (int round = 0;; ++round) {
      rows.wait(round);
      const Slot next = slot();
      if (!next.any) return;
      f(round, next.tile);
    }
  }

 private:
  __device__ Slot& slot() const { return *reinterpret_cast<Slot*>(rows.barriers + Ring<1>::kBarriers); }
};

// How a tile of query rows is found.
__device__ inline auto query_tiles_of(const Problem& p) {
  return [&p](int number, QueryTile& tile) { return tile = QueryTile(p, number), true; };
}

// init() of the block's barriers by one thread, copy() by one thread, compute() by two warpgroups.
template <class Init, class Copy, class Compute>
__device__ void run_block(Init init, Copy copy, Compute compute) {
  if (threadIdx.x == 0) {
    init();
    mbarrier_init_fence();
  }
  __syncthreads();
  if (group_of_block() == kGroups) {
    give_registers<24>();
    if (threadIdx.x % kWarpgroup == 0) copy();
  } else {
    take_registers<240>();
    compute();
  }
}

// kernel(tiles, arguments...), a block on every multiprocessor that there is work for.
template <class... P, class... A>
void launch_tiles(const Stream& stream, const char* name, void (*kernel)(P...), unsigned tiles, int bytes,
                  A... arguments) {
  if (tiles == 0) return;
  const Tensor taken = Tensor::zeros({1}, DType::i32, stream.device);
  const auto most = static_cast<unsigned>(wuneng::cuda::multiprocessors(stream.device.index));
  launch(stream, name, kernel, dim3(std::min(tiles, most)), dim3(kBlockThreads), bytes,
         Tiles{static_cast<int>(tiles), taken.data<int32_t>()}, arguments...);
}

}  // namespace wuneng::kernels::cuda::hopper
