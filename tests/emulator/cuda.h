// The part of CUDA's driver interface that wuneng uses, and the instructions of Hopper (sm_90a) that
// kernels/cuda/common/hopper.h wraps, emulated (see cuda_runtime.h).
//
// Asynchronous operations complete as late as on any GPU: a tensor copy completes when no thread can run
// without it, in random order, and its target is NaN from its start on. A wgmma is computed when its thread
// waits for it, from the content of shared memory at that time; its accumulators are NaN in between. Ordinary
// stores to shared memory are visible to wgmma only after fence.proxy.async.
#pragma once
#include "cuda_runtime.h"

struct alignas(64) CUtensorMap {
  uint64_t opaque[16];
};
using cuuint32_t = uint32_t;
using cuuint64_t = uint64_t;
enum CUresult { CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1 };
enum CUtensorMapDataType { CU_TENSOR_MAP_DATA_TYPE_FLOAT32 = 7, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 = 9 };
enum CUtensorMapInterleave { CU_TENSOR_MAP_INTERLEAVE_NONE = 0 };
enum CUtensorMapSwizzle { CU_TENSOR_MAP_SWIZZLE_NONE = 0, CU_TENSOR_MAP_SWIZZLE_128B = 3 };
enum CUtensorMapL2promotion { CU_TENSOR_MAP_L2_PROMOTION_NONE = 0, CU_TENSOR_MAP_L2_PROMOTION_L2_256B = 3 };
enum CUtensorMapFloatOOBfill { CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE = 0 };

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType, cuuint32_t rank, void* address,
                                const cuuint64_t* dims, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* element_strides, CUtensorMapInterleave, CUtensorMapSwizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

#define __grid_constant__

namespace emulator {

// The 32-bit shared-memory address, as in descriptors.
uint32_t shared_address(const void* at);

// mbarrier.init; fence.mbarrier_init; arrive and arrive.expect_tx; try_wait.parity until true. Aborts if a
// barrier is used before the fence of its initialisation.
void mbarrier_init(uint64_t* barrier, unsigned count);
void mbarrier_init_fence();
void mbarrier_arrive(uint64_t* barrier, unsigned expected_bytes);
void mbarrier_wait(uint64_t* barrier, unsigned parity);

// cp.async.bulk.tensor.4d from global to shared memory.
void tensor_copy(void* to, const CUtensorMap* map, uint64_t* barrier, const int (&from)[4]);
// fence.proxy.async.shared::cta
void async_fence();

// bar.sync and bar.arrive
void named_barrier(int id, int threads, bool waits);

// wgmma.fence, .commit_group, .wait_group, .mma_async.m64nNk16.f32.bf16.bf16 with `a` from registers, or from
// shared memory by descriptor (K-major). Aborts if a product is issued without a fence since the last
// wait.
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int pending);
void wgmma(float* d, int n, const unsigned* a, uint64_t a_descriptor, uint64_t b_descriptor,
           bool b_transposed, bool add);

}  // namespace emulator
