// bf16 tensor-core instructions and the loads and copies that feed them (mma.sync, ldmatrix, cp.async): one
// function per instruction. Builds without a GPU use tests/emulator's, with the same layouts.
#pragma once
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {

// 8 x 8 matrices of bf16 spread over a warp: lane 4 g + t holds elements (g, 2 t) and (g, 2 t + 1) of each in
// one word, the first in its low half.
struct Matrices {
  unsigned of[4];
};

// d [16, 8] += a [16, 16] b [16, 8], with f32 sums. a: its four matrices in the order (rows 0, columns 0),
// (8, 0), (0, 8), (8, 8). b: rows 0 and rows 8, both transposed. d: lane 4 g + t has (g, 2 t), (g, 2 t + 1),
// (g + 8, 2 t), (g + 8, 2 t + 1), so that two such tiles side by side are, packed, an a.
__device__ inline void mma(float (&d)[4], const Matrices& a, unsigned b_top, unsigned b_bottom) {
#ifdef __CUDACC__
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a.of[0]), "r"(a.of[1]), "r"(a.of[2]), "r"(a.of[3]), "r"(b_top), "r"(b_bottom));
#else
  emulator::mma_bf16(d, a.of, b_top, b_bottom);
#endif
}

// Four matrices from shared memory: lane 8 i + r passes the address of row r of matrix i, 16 bytes, 16-byte
// aligned.
__device__ inline Matrices load_matrices(const void* row) {
  Matrices m;
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m.of[0]), "=r"(m.of[1]), "=r"(m.of[2]), "=r"(m.of[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row))));
#else
  emulator::load_matrices(m.of, row, false);
#endif
  return m;
}

// The same, each matrix transposed.
__device__ inline Matrices load_transposed(const void* row) {
  Matrices m;
#ifdef __CUDACC__
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m.of[0]), "=r"(m.of[1]), "=r"(m.of[2]), "=r"(m.of[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row))));
#else
  emulator::load_matrices(m.of, row, true);
#endif
  return m;
}

// A matrix transposed.
__device__ inline unsigned transposed(unsigned matrix) {
#ifdef __CUDACC__
  unsigned out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(matrix));
  return out;
#else
  // From two rows, the column with the number of this lane's row.
  const int row = emulator::lane() / 4, source = emulator::lane() % 4 * 8 + row / 2, shift = row % 2 * 16;
  const unsigned first = emulator::shuffle(matrix, source), second = emulator::shuffle(matrix, source + 4);
  return (first >> shift & 0xffffu) | second >> shift << 16;
#endif
}

// Two numbers rounded to bf16.
__device__ inline unsigned pack(float low, float high) {
#ifdef __CUDACC__
  unsigned both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
#else
  return unsigned{bf16(low).bits} | unsigned{bf16(high).bits} << 16;
#endif
}
__device__ inline float low_of(unsigned both) { return __int_as_float(static_cast<int>(both << 16)); }
__device__ inline float high_of(unsigned both) {
  return __int_as_float(static_cast<int>(both & 0xffff0000u));
}

// 2^x with an error of at most 2 ulp; 0 for -infinity.
__device__ inline float fast_exp2(float x) {
#ifdef __CUDACC__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return std::exp2(x);
#endif
}

// kBytes (8 or 16, aligned to it) from global to shared memory; zeros if `there` is false. Visible to this
// thread after wait_for_copies, to the block after an additional barrier.
template <int kBytes>
__device__ inline void copy_async(void* to, const void* from, bool there) {
  static_assert(kBytes == 8 || kBytes == 16);
  const int count = there ? kBytes : 0;
#ifdef __CUDACC__
  const unsigned at = static_cast<unsigned>(__cvta_generic_to_shared(to));
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(count) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(at), "l"(from), "r"(count) : "memory");
#else
  emulator::copy_async(to, from, kBytes, count);
#endif
}

// All copies that this thread has started.
__device__ inline void wait_for_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_all;" ::: "memory");
#else
  emulator::wait_for_copies();
#endif
}

}  // namespace wuneng::kernels::cuda
