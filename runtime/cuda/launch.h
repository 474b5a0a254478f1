// Kernel launches, and helpers that all kernels share. Compiled by nvcc, or by the C++ compiler for
// tests/emulator, which has no <<<>>>: no other file may launch a kernel.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>

#include "runtime/cuda/check.h"
#include "runtime/tensor.h"

namespace wuneng::cuda {

inline constexpr int kWarp = 32;
inline constexpr int kBlock = 256;  // default threads per block

// Launches kernel(arguments...) with shared_bytes of dynamic shared memory per block. Does nothing for an
// empty grid.
template <class... P, class... A>
void launch(const Stream& stream, const char* name, void (*kernel)(P...), dim3 grid, dim3 block,
            size_t shared_bytes, A... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared_bytes > 48 * 1024)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          name);
#ifdef __CUDACC__
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream.handle)>>>(P(arguments)...);
#else
  emulator::run(static_cast<cudaStream_t>(stream.handle), grid, block, shared_bytes,
                [=] { kernel(P(arguments)...); });
#endif
  check(cudaGetLastError(), name);
}

// The block's dynamic shared memory, 1024-byte aligned.
template <class T>
__device__ T* shared_memory() {
#ifdef __CUDACC__
  extern __shared__ __align__(1024) unsigned char wuneng_shared[];
  return reinterpret_cast<T*>(wuneng_shared);
#else
  return static_cast<T*>(emulator::shared_memory());
#endif
}

inline unsigned blocks_for(int64_t n, int64_t each) { return static_cast<unsigned>((n + each - 1) / each); }

template <class F>
__global__ void __launch_bounds__(kBlock) each_kernel(int64_t n, F f) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n;
       i += int64_t{gridDim.x} * blockDim.x)
    f(i);
}

// f(i) for 0 <= i < n, one thread per i; f is a __device__ lambda that captures by value.
template <class F>
void for_each(const Stream& stream, const char* name, int64_t n, F f) {
  launch(stream, name, each_kernel<F>, dim3(std::min(blocks_for(n, kBlock), 1u << 20)), dim3(kBlock), 0, n,
         f);
}

__device__ inline float warp_sum(float x) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(~0u, x, mask);
  return x;
}
__device__ inline double warp_sum(double x) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(~0u, x, mask);
  return x;
}
__device__ inline float warp_max(float x) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, mask));
  return x;
}

// Conversions of element types on the device (those of runtime/dtype.h are for the host).
__device__ inline float as_float(float x) { return x; }
__device__ inline float as_float(bf16 x) {
  return __int_as_float(static_cast<int>(static_cast<unsigned>(x.bits) << 16));
}
__device__ inline float as_float(f16 x) {
#ifdef __CUDACC__
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
#else
  return static_cast<float>(x);
#endif
}
__device__ inline float as_float(int8_t x) { return x; }
__device__ inline void assign(float& to, float x) { to = x; }
__device__ inline void assign(bf16& to, float x) {  // to nearest, ties to even; keeps NaN
#ifdef __CUDACC__
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
#else
  to = bf16(x);
#endif
}

// A pointer to f32 or bf16 elements, which of the two is known only at run time.
struct FloatPointer {
  void* data = nullptr;
  bool is_bf16 = false;

  __device__ float operator[](int64_t i) const {
    return is_bf16 ? as_float(static_cast<const bf16*>(data)[i]) : static_cast<const float*>(data)[i];
  }
  __device__ void store(int64_t i, float x) const {
    if (is_bf16)
      assign(static_cast<bf16*>(data)[i], x);
    else
      assign(static_cast<float*>(data)[i], x);
  }
  // A pointer to element i.
  __host__ __device__ FloatPointer from(int64_t i) const {
    return {static_cast<char*>(data) + i * (is_bf16 ? 2 : 4), is_bf16};
  }
  __host__ __device__ explicit operator bool() const { return data != nullptr; }
};

// Null if the tensor is undefined.
inline FloatPointer float_pointer(const Tensor& t) {
  if (!t.defined()) return {};
  const bool is_bf16 = t.dtype() == DType::bf16;
  return {is_bf16 ? static_cast<void*>(t.data<bf16>()) : t.f32(), is_bf16};
}
// The data of an f32 tensor, or null if it is undefined.
inline float* f32_or_null(const Tensor& t) { return t.defined() ? t.f32() : nullptr; }

}  // namespace wuneng::cuda
