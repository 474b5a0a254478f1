// Shared by the kernels of hopper_attention.h: warp-specialised persistent kernels (FlashAttention-3, Shah et
// al. 2024). A block has three warpgroups: one thread of the last is the producer, which copies tiles into
// pipelines; each of the other two is a consumer, which owns 64 rows of the block's tile of 128 and gets the
// registers that the producer warpgroup releases. A block processes work items until there are none left, so
// that the copies of the next item overlap the epilogue of the last.
#pragma once
#include "kernels/cuda/attention/flash_problem.h"
#include "kernels/cuda/common/tensor_map.h"
#include "kernels/cuda/common/tile_pipeline.h"
#include "kernels/cuda/common/wgmma.h"
#include "runtime/cuda/device.h"

namespace wuneng::kernels::cuda::hopper {

using namespace flash;

inline constexpr int kGroups = 2;  // consumer warpgroups
inline constexpr int kBlockRows = kGroups * 64;
inline constexpr int kBlockThreads = (kGroups + 1) * kWarpgroup;
inline constexpr int kGroupWarps = kWarpgroup / kWarp, kReaders = kGroups * kGroupWarps;
inline constexpr int kOwnBarrier = 1,
                     kOrderBarrier = kOwnBarrier + kGroups;  // named barriers of group 0; + group
static_assert(kBlockRows == kQueryRows);

__device__ inline int group_of_block() { return threadIdx.x / kWarpgroup; }
// The warp's first row, in the block's tile.
__device__ inline int row_of_warp() { return 16 * warp_of_block(); }

// The work items of a launch, in the order of decreasing work. Blocks take the next item from a counter, so
// that a block that starts late, e.g. because a NCCL kernel occupied its multiprocessor, gets fewer items.
struct TileQueue {
  int count;
  int* next;  // in global memory, initially 0; null: each block has one item, that of its number
};

// A block's work items: the producer takes them from the queue and passes each, with a tile T and the block's
// own rows, to the consumers.
template <class T>
struct TileScheduler {
  struct Slot {
    bool is_valid;  // false: no work left
    T tile;
  };
  static constexpr int kBytes = 8 * TilePipeline<1>::kBarriers + (sizeof(Slot) + 15) / 16 * 16;
  TilePipeline<1> rows;

  __device__ void init() const { rows.init(kReaders); }
  // Producer: for each item for which find(number, tile) fills in a tile and returns true, copy(work, tile),
  // which must call rows.arrive_expect(work, ...).
  template <class Find, class Copy>
  __device__ void produce(const TileQueue& queue, Find find, Copy copy) const {
    int own = static_cast<int>(blockIdx.x);  // without a counter
    const auto next_number = [&] {
      if (queue.next) return atomicAdd(queue.next, 1);
      const int number = own;
      own = queue.count;
      return number;
    };
    for (int work = 0;; ++work) {
      T tile{};
      int number;
      do number = next_number();
      while (number < queue.count && !find(number, tile));
      rows.wait_empty(work);
      slot() = {number < queue.count, tile};
      if (number >= queue.count) {
        rows.arrive_expect(work, 0);
        return;
      }
      copy(work, tile);
    }
  }
  // Consumers: f(work, tile), which must call rows.consumer_release(work).
  template <class F>
  __device__ void consume(F f) const {
    for (int work = 0;; ++work) {
      rows.consumer_wait(work);
      const Slot next = slot();
      if (!next.is_valid) return;
      f(work, next.tile);
    }
  }

 private:
  __device__ Slot& slot() const {
    return *reinterpret_cast<Slot*>(rows.barriers + TilePipeline<1>::kBarriers);
  }
};

// The `find` of a tile of query rows.
__device__ inline auto query_tiles_of(const Problem& p) {
  return [&p](int number, QueryTile& tile) { return tile = QueryTile(p, number), true; };
}

// init() initialises the barriers and copy() is the producer, both by one thread; compute() by the two
// consumer warpgroups.
template <class Init, class Copy, class Compute>
__device__ void run_block(Init init, Copy copy, Compute compute) {
  if (threadIdx.x == 0) {
    init();
    mbarrier_init_fence();
  }
  __syncthreads();
  if (group_of_block() == kGroups) {
    warpgroup_reg_dealloc<24>();
    if (threadIdx.x % kWarpgroup == 0) copy();
  } else {
    warpgroup_reg_alloc<240>();
    compute();
  }
}

// kernel(queue, arguments...) with min(tiles, persistent_blocks) blocks.
template <class... P, class... A>
void launch_tiles(const Stream& stream, const char* name, void (*kernel)(P...), unsigned tiles, int bytes,
                  A... arguments) {
  if (tiles == 0) return;
  const auto most = static_cast<unsigned>(wuneng::cuda::persistent_blocks(stream.device.index));
  const Tensor next = tiles > most ? Tensor::zeros({1}, DType::i32, stream.device) : Tensor();
  launch(stream, name, kernel, dim3(std::min(tiles, most)), dim3(kBlockThreads), bytes,
         TileQueue{static_cast<int>(tiles), next.defined() ? next.data<int32_t>() : nullptr}, arguments...);
}

}  // namespace wuneng::kernels::cuda::hopper
