// What the kernels of hopper_attention.h have in common. A block has three warpgroups: one thread of the last
// copies tiles into rings, and each of the others owns 64 rows of the block's tile of 128, with registers of
// those that the third gives. A block stays on its multiprocessor and takes tile after tile, so that what the
// next one needs is copied while the sums of one are written.
#pragma once
#include "kernels/cuda/flash_problem.h"
#include "kernels/cuda/ring.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/wgmma.h"
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

// f(round, number) for each of the block's tiles. They are numbered by falling work: dealt out to and fro,
// all blocks get about the same.
template <class F>
__device__ void for_tiles(int tiles, F f) {
  const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
  for (int round = 0;; ++round) {
    const int number = round * blocks + (round % 2 ? blocks - 1 - block : block);
    if (number >= tiles) return;
    f(round, number);
  }
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

template <class... P, class... A>
void launch_on_all(const Stream& stream, const char* name, void (*kernel)(P...), unsigned tiles, int bytes,
                   A... arguments) {
  const auto most = static_cast<unsigned>(wuneng::cuda::multiprocessors(stream.device.index));
  launch(stream, name, kernel, dim3(std::min(tiles, most)), dim3(kBlockThreads), bytes, arguments...);
}

}  // namespace wuneng::kernels::cuda::hopper
