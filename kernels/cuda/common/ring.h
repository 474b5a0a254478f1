// Tiles that one thread of a block copies into shared memory by turns while warpgroups work on those before.
#pragma once
#include "kernels/cuda/common/hopper.h"

namespace wuneng::kernels::cuda {

// Turn n is in stage n % kStages. A stage is full when its bytes have been copied, and free when one lane of
// each of `readers` warps has released it.
template <int kStages>
struct Ring {
  static constexpr int kBarriers = 2 * kStages;  // of 8 bytes
  uint64_t* barriers;

  __device__ void init(int readers) const {
    for (int stage = 0; stage < kStages; ++stage)
      mbarrier_init(full(stage), 1), mbarrier_init(free(stage), readers);
  }

  // The copying thread: the barrier on which the turn's copies shall end, all `bytes` of them.
  __device__ uint64_t* begin_copy(int turn, unsigned bytes) const {
    wait_free(turn);
    return announce(turn, bytes);
  }
  __device__ void wait_free(int turn) const { mbarrier_wait(free(turn), turn / kStages % 2 ^ 1); }
  // What it stored before this is there for whoever waits for the turn.
  __device__ uint64_t* announce(int turn, unsigned bytes) const {
    mbarrier_arrive(full(turn), bytes);
    return full(turn);
  }

  __device__ void wait(int turn) const { mbarrier_wait(full(turn), turn / kStages % 2); }
  // By all lanes of a warp, none of which reads the tile after it.
  __device__ void release(int turn) const {
    __syncwarp();
    if (threadIdx.x % wuneng::cuda::kWarp == 0) mbarrier_arrive(free(turn));
  }

 private:
  __device__ uint64_t* full(int turn) const { return barriers + turn % kStages; }
  __device__ uint64_t* free(int turn) const { return barriers + kStages + turn % kStages; }
};

}  // namespace wuneng::kernels::cuda
