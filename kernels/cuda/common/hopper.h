// Instructions of Hopper (sm_90a), one function per instruction. Builds without a GPU use tests/emulator's.
// PTX ISA 8.0, sections on mbarrier, cp.async.bulk.tensor and setmaxnreg; wgmma is in wgmma.h.
#pragma once
#include <cuda.h>

#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {

// Whether this compilation pass may contain these instructions; in other passes kernels that use them are
// empty.
#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
inline constexpr bool kHopperCode = true;
#else
inline constexpr bool kHopperCode = false;
#endif

inline constexpr int kWarpgroup = 128;  // threads

__device__ inline unsigned shared_address(const void* at) {
#ifdef __CUDACC__
  return static_cast<unsigned>(__cvta_generic_to_shared(at));
#else
  return emulator::shared_address(at);
#endif
}

// A barrier in shared memory (mbarrier): a phase completes when `count` threads have arrived and all bytes
// that they expect have been copied. Initialised by one thread, which calls mbarrier_init_fence before the
// block's next barrier.
__device__ inline void mbarrier_init(uint64_t* barrier, unsigned count) {
#ifdef __CUDACC__
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count)
               : "memory");
#else
  emulator::mbarrier_init(barrier, count);
#endif
}
__device__ inline void mbarrier_init_fence() {
#ifdef __CUDACC__
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#else
  emulator::mbarrier_init_fence();
#endif
}
__device__ inline void mbarrier_arrive(uint64_t* barrier) {
#ifdef __CUDACC__
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
#else
  emulator::mbarrier_arrive(barrier, 0);
#endif
}
__device__ inline void mbarrier_arrive(uint64_t* barrier, unsigned expected_bytes) {
#ifdef __CUDACC__
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(expected_bytes)
               : "memory");
#else
  emulator::mbarrier_arrive(barrier, expected_bytes);
#endif
}
// Waits until the phase with this parity has completed. Phases are numbered from 0; the phase before the
// first counts as completed, with parity 1.
__device__ inline void mbarrier_wait(uint64_t* barrier, unsigned parity) {
#ifdef __CUDACC__
  unsigned over = 0;
  while (!over)
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
        : "=r"(over)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
#else
  emulator::mbarrier_wait(barrier, parity);
#endif
}

// Copies a box of a tensor to shared memory (1024-byte aligned) with zeros outside the tensor, and completes
// on the barrier. `map` is a kernel's __grid_constant__ argument (tensor_map.h).
__device__ inline void tma_load(void* to, const CUtensorMap& map, uint64_t* barrier, const int (&from)[4]) {
#ifdef __CUDACC__
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
      "%5, %6}], [%2];" ::"r"(shared_address(to)),
      "l"(&map), "r"(shared_address(barrier)), "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3])
      : "memory");
#else
  emulator::tensor_copy(to, &map, barrier, from);
#endif
}

// Makes this thread's stores to shared memory visible to wgmma (the async proxy) after the next barrier.
__device__ inline void fence_proxy_async() {
#ifdef __CUDACC__
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#else
  emulator::async_fence();
#endif
}

// Named barriers 1 to 15 of a block, each for `threads` threads (a multiple of 32), some of which only
// arrive.
__device__ inline void named_sync(int barrier, int threads) {
#ifdef __CUDACC__
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
#else
  emulator::named_barrier(barrier, threads, true);
#endif
}
__device__ inline void named_arrive(int barrier, int threads) {
#ifdef __CUDACC__
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
#else
  emulator::named_barrier(barrier, threads, false);
#endif
}

// Sets the registers per thread of this warpgroup (setmaxnreg); what one warpgroup releases another can
// allocate.
template <int kCount>
__device__ inline void warpgroup_reg_dealloc() {
  static_assert(kCount % 8 == 0 && kCount >= 24 && kCount <= 256);
#ifdef __CUDACC__
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
#endif
}
template <int kCount>
__device__ inline void warpgroup_reg_alloc() {
  static_assert(kCount % 8 == 0 && kCount >= 24 && kCount <= 256);
#ifdef __CUDACC__
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
#endif
}

}  // namespace wuneng::kernels::cuda
