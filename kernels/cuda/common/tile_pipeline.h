// A shared-memory pipeline of tiles: one producer thread copies, warpgroups consume. Same protocol as
// CUTLASS's PipelineTmaAsync.
#pragma once
#include "kernels/cuda/common/hopper.h"

namespace wuneng::kernels::cuda {

// Iteration n uses stage n % kStages. A stage is full when its bytes have been copied, and empty when one
// lane of each of `consumer_warps` warps has released it.
template <int kStages>
struct TilePipeline {
  static constexpr int kBarriers = 2 * kStages;  // of 8 bytes
  uint64_t* barriers;

  __device__ void init(int consumer_warps) const {
    for (int stage = 0; stage < kStages; ++stage)
      mbarrier_init(full(stage), 1), mbarrier_init(empty(stage), consumer_warps);
  }

  // Producer: waits until the stage is empty and returns the barrier that the copies, of `bytes` together,
  // complete on.
  __device__ uint64_t* producer_acquire(int iteration, unsigned bytes) const {
    wait_empty(iteration);
    return arrive_expect(iteration, bytes);
  }
  __device__ void wait_empty(int iteration) const {
    mbarrier_wait(empty(iteration), iteration / kStages % 2 ^ 1);
  }
  // What the producer stored to shared memory before this is visible to consumers after their wait.
  __device__ uint64_t* arrive_expect(int iteration, unsigned bytes) const {
    mbarrier_arrive(full(iteration), bytes);
    return full(iteration);
  }

  __device__ void consumer_wait(int iteration) const {
    mbarrier_wait(full(iteration), iteration / kStages % 2);
  }
  // By all lanes of a warp; none of them may read the tile afterwards.
  __device__ void consumer_release(int iteration) const {
    __syncwarp();
    if (threadIdx.x % wuneng::cuda::kWarp == 0) mbarrier_arrive(empty(iteration));
  }

 private:
  __device__ uint64_t* full(int iteration) const { return barriers + iteration % kStages; }
  __device__ uint64_t* empty(int iteration) const { return barriers + kStages + iteration % kStages; }
};

}  // namespace wuneng::kernels::cuda
