// Warpgroup products on tensor cores with tiles in shared memory (PTX ISA, "Asynchronous Warpgroup Level
// Matrix Multiply-Accumulate"). They are asynchronous: accumulators may be accessed only after a wait, and
// products that are issued after accumulators were accessed need a fence first.
#pragma once
#include "kernels/cuda/attention/flash_tile.h"
#include "kernels/cuda/common/hopper.h"

namespace wuneng::kernels::cuda {

// kRows rows of D channels in panels of 64 channels with the 128-byte swizzle: in a panel rows are 128 bytes
// apart, and 16-byte piece p of row r is at position p xor r % 8. As written by tma_load; 1024-byte aligned.
template <int kRows, int D>
struct SwizzledTile {
  static constexpr int kPanel = kRows * 128, kBytes = D / 64 * kPanel;
  static_assert(kRows % 8 == 0 && D % 64 == 0);
  char* data;

  // Descriptor of rows from `row` on (a multiple of 8), channels [16 step, 16 step + 16): operand A or,
  // K-major, operand B (channels are the K dimension).
  __device__ uint64_t k_major(int row, int step) const {
    return descriptor(data + step / 4 * kPanel + row * 128 + step % 4 * 32, 0);
  }
  // Descriptor of rows [16 step, 16 step + 16), all channels: operand B, MN-major (rows are the K dimension).
  __device__ uint64_t mn_major(int step) const { return descriptor(data + step * 16 * 128, kPanel); }

  // Sets the rows from `row` on to zero; by all threads of a warpgroup, synchronised at the end.
  __device__ void clear_from(int row, int barrier) const {
    struct alignas(16) Piece {
      unsigned word[4] = {};
    };
    for (int i = row * 8 + threadIdx.x % kWarpgroup; i < kRows * 8; i += kWarpgroup)
#pragma unroll
      for (int panel = 0; panel < D / 64; ++panel)
        *reinterpret_cast<Piece*>(data + panel * kPanel + i * 16) = {};
    fence_proxy_async();
    named_sync(barrier, kWarpgroup);
  }

 private:
  // PTX ISA, "Matrix Descriptor Format": start address, leading byte offset (between panels), stride byte
  // offset (between groups of eight rows), each in units of 16 bytes, and the 128-byte swizzle.
  __device__ static uint64_t descriptor(const char* at, unsigned panel) {
    return uint64_t{(shared_address(at) & 0x3ffff) >> 4} | uint64_t{panel >> 4} << 16 |
           uint64_t{8 * 128 >> 4} << 32 | uint64_t{1} << 62;
  }
};

// Keeps a warpgroup's accumulators [64, 8 kWidth] in their registers across this point: the compiler does not
// know that asynchronous products write them.
template <int kWidth>
__device__ inline void pin(Accumulators<1, kWidth>& sums) {
#ifdef __CUDACC__
#pragma unroll
  for (int n = 0; n < kWidth; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) asm volatile("" : "+f"(sums.of[0][n][e])::"memory");
#else
  (void)sums;
#endif
}

// Attention weights [64, 16 kDepth] rounded to bf16, as operand A in registers.
template <int kDepth>
struct Weights {
  Matrices of[kDepth];

  __device__ void take(const Accumulators<1, 2 * kDepth>& w) {
#pragma unroll
    for (int k = 0; k < kDepth; ++k) {
      const float(&near)[4] = w.of[0][2 * k], (&far)[4] = w.of[0][2 * k + 1];
      of[k] = {pack(near[0], near[1]), pack(near[2], near[3]), pack(far[0], far[1]), pack(far[2], far[3])};
    }
  }
};

template <int kDepth>
__device__ inline void pin(Weights<kDepth>& weights) {
#ifdef __CUDACC__
#pragma unroll
  for (int k = 0; k < kDepth; ++k)
#pragma unroll
    for (int n = 0; n < 4; ++n) asm volatile("" : "+r"(weights.of[k].of[n])::"memory");
#else
  (void)weights;
#endif
}

// Before the first of a series of products, with all accumulators and register operands that they use.
template <class... S>
__device__ inline void wgmma_fence(S&... sums) {
  (pin(sums), ...);
#ifdef __CUDACC__
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
  emulator::wgmma_fence();
#endif
}

// Closes a group of the products since the last commit.
__device__ inline void wgmma_commit() {
#ifdef __CUDACC__
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
  emulator::wgmma_commit();
#endif
}

// Waits until at most the last kPending groups are running; with the accumulators of the completed ones.
template <int kPending, class... S>
__device__ inline void wgmma_wait(S&... sums) {
#ifdef __CUDACC__
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#else
  emulator::wgmma_wait(kPending);
#endif
  (pin(sums), ...);
}

// The asm operands of an instruction with accumulators [64, 8 kWidth].
#define WUNENG_ACCUMULATORS_4(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define WUNENG_ACCUMULATORS_16(n)                                                       \
  WUNENG_ACCUMULATORS_4(n), WUNENG_ACCUMULATORS_4(n + 1), WUNENG_ACCUMULATORS_4(n + 2), \
      WUNENG_ACCUMULATORS_4(n + 3)
#define WUNENG_ACCUMULATORS_32 WUNENG_ACCUMULATORS_16(0), WUNENG_ACCUMULATORS_16(4)
#define WUNENG_ACCUMULATORS_64 WUNENG_ACCUMULATORS_32, WUNENG_ACCUMULATORS_16(8), WUNENG_ACCUMULATORS_16(12)
#define WUNENG_OPERANDS_32                   \
  "%0, %1, %2, %3, %4, %5, %6, %7, "         \
  "%8, %9, %10, %11, %12, %13, %14, %15, "   \
  "%16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define WUNENG_OPERANDS_64                   \
  WUNENG_OPERANDS_32                         \
  ", "                                       \
  "%32, %33, %34, %35, %36, %37, %38, %39, " \
  "%40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, " \
  "%56, %57, %58, %59, %60, %61, %62, %63"

// sums [64, 8 kWidth] = a b^T, or += if `add`; both from shared memory: 16 channels of 64 rows of a and of 8
// kWidth rows of b (SwizzledTile::k_major).
template <int kWidth>
__device__ inline void wgmma(Accumulators<1, kWidth>& sums, uint64_t a, uint64_t b, bool add) {
  static_assert(kWidth == 8 || kWidth == 16);
#ifdef __CUDACC__
  float(&d)[kWidth][4] = sums.of[0];
  if constexpr (kWidth == 8)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WUNENG_OPERANDS_32
        "}, %32, %33, p, 1, 1, 0, 0;\n}"
        : WUNENG_ACCUMULATORS_32
        : "l"(a), "l"(b), "r"(int{add}));
  else
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WUNENG_OPERANDS_64
        "}, %64, %65, p, 1, 1, 0, 0;\n}"
        : WUNENG_ACCUMULATORS_64
        : "l"(a), "l"(b), "r"(int{add}));
#else
  emulator::wgmma(&sums.of[0][0][0], 8 * kWidth, nullptr, a, b, false, add);
#endif
}

// sums [64, 8 kWidth] += a b: a [64, 16] from registers in mma's layout, b from shared memory, 16 rows of 8
// kWidth channels (SwizzledTile::mn_major).
template <int kWidth>
__device__ inline void wgmma(Accumulators<1, kWidth>& sums, const Matrices& a, uint64_t b) {
  static_assert(kWidth == 8 || kWidth == 16);
#ifdef __CUDACC__
  float(&d)[kWidth][4] = sums.of[0];
  if constexpr (kWidth == 8)
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" WUNENG_OPERANDS_32
        "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"
        : WUNENG_ACCUMULATORS_32
        : "r"(a.of[0]), "r"(a.of[1]), "r"(a.of[2]), "r"(a.of[3]), "l"(b));
  else
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, 1, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" WUNENG_OPERANDS_64
        "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"
        : WUNENG_ACCUMULATORS_64
        : "r"(a.of[0]), "r"(a.of[1]), "r"(a.of[2]), "r"(a.of[3]), "l"(b));
#else
  emulator::wgmma(&sums.of[0][0][0], 8 * kWidth, a.of, 0, b, true, true);
#endif
}

#undef WUNENG_ACCUMULATORS_4
#undef WUNENG_ACCUMULATORS_16
#undef WUNENG_ACCUMULATORS_32
#undef WUNENG_ACCUMULATORS_64
#undef WUNENG_OPERANDS_32
#undef WUNENG_OPERANDS_64

// sums [64, 8 kWidth] = a's rows from `row` on times b^T
template <int kWidth, int kRowsOfA, int D>
__device__ void issue_scores(Accumulators<1, kWidth>& sums, SwizzledTile<kRowsOfA, D> a, int row,
                             SwizzledTile<8 * kWidth, D> b) {
#pragma unroll
  for (int step = 0; step < D / 16; ++step) wgmma(sums, a.k_major(row, step), b.k_major(0, step), step > 0);
}

// sums [64, D] += weights x
template <int kDepth, int D>
__device__ void issue_weighted(Accumulators<1, D / 8>& sums, const Weights<kDepth>& weights,
                               SwizzledTile<16 * kDepth, D> x) {
#pragma unroll
  for (int step = 0; step < kDepth; ++step) wgmma(sums, weights.of[step], x.mn_major(step));
}

}  // namespace wuneng::kernels::cuda
