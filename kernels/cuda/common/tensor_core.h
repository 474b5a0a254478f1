// Products of small matrices in shared memory, on tensor cores at f32 precision: each operand is split into
// three tf32 numbers of 11 bits, x = high + middle + low, and a b is the sum of the six products of parts
// that are not below f32's precision.
#pragma once
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {

// A matrix in memory: element (i, j) is data[i * row + j * column].
struct Matrix {
  const float* data;
  int row, column;
  __device__ float at(int i, int j) const { return data[i * row + j * column]; }
};
__device__ inline Matrix rows_of(const float* data, int pitch) { return {data, pitch, 1}; }
__device__ inline Matrix columns_of(const float* data, int pitch) { return {data, 1, pitch}; }  // transposed

#ifdef __CUDACC__
template <int kCount>
struct Split {
  unsigned high[kCount], middle[kCount], low[kCount];

  __device__ explicit Split(const float (&x)[kCount]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      high[i] = tf32(x[i]);
      const float rest = x[i] - __uint_as_float(high[i]);
      middle[i] = tf32(rest);
      low[i] = tf32(rest - __uint_as_float(middle[i]));
    }
  }
  static __device__ unsigned tf32(float x) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
  }
};

__device__ inline void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, "
      "%1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// d [16, 8] += a [16, 8] b [8, 8], by a warp whose lane l = 4 g + t holds a (g, t), (g + 8, t), (g, t + 4),
// (g + 8, t + 4), b (t, g), (t + 4, g) and d (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1).
__device__ inline void multiply_tile(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
#ifdef __CUDACC__
  const Split<4> x(a);
  const Split<2> y(b);
  mma_tf32(d, x.low, y.high);  // small products first
  mma_tf32(d, x.middle, y.middle);
  mma_tf32(d, x.high, y.low);
  mma_tf32(d, x.middle, y.high);
  mma_tf32(d, x.high, y.middle);
  mma_tf32(d, x.high, y.high);
#else
  emulator::multiply_tile(d, a, b);
#endif
}

// Row pitch without bank conflicts when lane 4 g + t reads row g, column t, e.g. for a number of columns that
// 32 divides.
__device__ __host__ constexpr int pitch_of(int columns) { return columns + 4; }

// c [m, n] (row pitch `pitch`) = (kAdd: +=) a [m, depth] b [depth, n], by a block of kBlock threads, which
// are synchronised at the end. On tensor cores if m is a multiple of 16, n and depth of 8.
template <bool kAdd = false>
__device__ void multiply(int m, int n, int depth, Matrix a, Matrix b, float* c, int pitch) {
  using wuneng::cuda::kBlock;
  using wuneng::cuda::kWarp;
  if (m % 16 == 0 && n % 8 == 0 && depth % 8 == 0) {
    const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4, across = n / 8;
    for (int tile = threadIdx.x / kWarp; tile < m / 16 * across; tile += kBlock / kWarp) {
      const int i = tile / across * 16 + g, j = tile % across * 8;
      float* const out = c + i * pitch + j + 2 * t;
      float d[4] = {};
      if (kAdd) d[0] = out[0], d[1] = out[1], d[2] = out[8 * pitch], d[3] = out[8 * pitch + 1];
      for (int p = t; p < depth; p += 8)
        multiply_tile(d, {a.at(i, p), a.at(i + 8, p), a.at(i, p + 4), a.at(i + 8, p + 4)},
                      {b.at(p, j + g), b.at(p + 4, j + g)});
      out[0] = d[0], out[1] = d[1], out[8 * pitch] = d[2], out[8 * pitch + 1] = d[3];
    }
  } else {
    for (int e = threadIdx.x; e < m * n; e += kBlock) {
      const int i = e / n, j = e % n;
      float sum = kAdd ? c[i * pitch + j] : 0.0f;
      for (int p = 0; p < depth; ++p) sum += a.at(i, p) * b.at(p, j);
      c[i * pitch + j] = sum;
    }
  }
  __syncthreads();
}

}  // namespace wuneng::kernels::cuda
