// Elementwise kernels with vectorised loads and stores of 16 bytes: such a kernel is one generic function of
// a VectorIndex, which names one element or as many consecutive ones as fill 16 bytes.
//
// T is the type of the launch's activations (float or bf16, all alike). Arithmetic is in f32.
#pragma once
#include <initializer_list>
#include <type_traits>

#include "runtime/cuda/launch.h"
#include "runtime/gradient.h"

namespace wuneng::cuda {

template <class T>
inline constexpr int kVectorLength = 16 / sizeof(T);  // elements in 16 bytes

// Elements [first, first + N) of tensors of T.
template <class T, int N>
struct VectorIndex {
  int64_t first;
  __device__ VectorIndex operator+(int64_t i) const { return {first + i}; }
  __device__ VectorIndex operator-(int64_t i) const { return {first - i}; }
};
template <class T, int N>
__device__ VectorIndex<T, N> operator+(int64_t i, VectorIndex<T, N> p) {
  return p + i;
}

// N f32 values in registers.
template <int N>
struct FloatVector {
  float x[N] = {};
};
template <int N, class F>
__device__ FloatVector<N> map(FloatVector<N> a, F f) {
#pragma unroll
  for (float& x : a.x) x = f(x);
  return a;
}
template <int N, class F>
__device__ FloatVector<N> map(FloatVector<N> a, const FloatVector<N>& b, F f) {
#pragma unroll
  for (int j = 0; j < N; ++j) a.x[j] = f(a.x[j], b.x[j]);
  return a;
}
template <int N>
__device__ float sum_of(const FloatVector<N>& a) {
  float sum = 0;
#pragma unroll
  for (const float x : a.x) sum += x;
  return sum;
}
#define WUNENG_VECTOR_OPERATOR(op)                                                          \
  template <int N>                                                                          \
  __device__ FloatVector<N> operator op(const FloatVector<N>& a, const FloatVector<N>& b) { \
    return map(a, b, [](float x, float y) { return x op y; });                              \
  }                                                                                         \
  template <int N>                                                                          \
  __device__ FloatVector<N> operator op(const FloatVector<N>& a, float b) {                 \
    return map(a, [b](float x) { return x op b; });                                         \
  }                                                                                         \
  template <int N>                                                                          \
  __device__ FloatVector<N> operator op(float a, const FloatVector<N>& b) {                 \
    return map(b, [a](float x) { return a op x; });                                         \
  }
WUNENG_VECTOR_OPERATOR(+)
WUNENG_VECTOR_OPERATOR(-)
WUNENG_VECTOR_OPERATOR(*)
#undef WUNENG_VECTOR_OPERATOR

// The elements of S that one load or store moves of N: at most 16 bytes, as one word. (The compiler splits
// the copy of a struct and does not always merge it again.)
template <int bytes>
using Word = std::conditional_t<
    bytes == 16, uint4,
    std::conditional_t<bytes == 8, uint2,
                       std::conditional_t<bytes == 4, unsigned,
                                          std::conditional_t<bytes == 2, unsigned short, unsigned char>>>>;
template <int N, class S>
union AlignedVector {
  Word<std::min<int>(16, N * sizeof(S))> word;
  S x[std::min<size_t>(16 / sizeof(S), N)];
  __device__ AlignedVector() {}
};

// to: in global memory.
template <class W>
__device__ void store_word(W& to, const W& word) {
#ifdef __CUDACC__
  if constexpr (sizeof(W) == 16)
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(&to)), "r"(word.x),
                 "r"(word.y), "r"(word.z), "r"(word.w)
                 : "memory");
  else if constexpr (sizeof(W) == 8)
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(&to)), "r"(word.x),
                 "r"(word.y)
                 : "memory");
  else
#endif
    to = word;
}

// Whether p is aligned for one load of N elements of S.
template <int N, class S>
__host__ __device__ bool is_aligned(const S* p) {
  return reinterpret_cast<uintptr_t>(p) % sizeof(AlignedVector<N, S>) == 0;
}

template <int N, class S>
__device__ void check_alignment([[maybe_unused]] const S* p) {
#ifndef __CUDACC__  // a GPU reports it itself
  if (!is_aligned<N>(p)) fail("misaligned access of {} bytes at {}", N * sizeof(S), fmt::ptr(p));
#endif
}

// Loads N elements of S from `from`, which is aligned to N * sizeof(S) bytes or to 16, whichever is less.
template <int N, class S>
__device__ FloatVector<N> load(const S* from) {
  constexpr int accesses = sizeof(S) * N / sizeof(AlignedVector<N, S>), length = N / accesses;
  check_alignment<N>(from);
  FloatVector<N> to;
#pragma unroll
  for (int a = 0; a < accesses; ++a) {
    AlignedVector<N, S> vector;
    vector.word = reinterpret_cast<const AlignedVector<N, S>*>(from)[a].word;
#pragma unroll
    for (int j = 0; j < length; ++j) to.x[a * length + j] = as_float(vector.x[j]);
  }
  return to;
}
// Stores to global memory, with the same alignment.
template <int N, class S>
__device__ void store(S* to, const FloatVector<N>& from) {
  constexpr int accesses = sizeof(S) * N / sizeof(AlignedVector<N, S>), length = N / accesses;
  check_alignment<N>(to);
#pragma unroll
  for (int a = 0; a < accesses; ++a) {
    AlignedVector<N, S> vector;
#pragma unroll
    for (int j = 0; j < length; ++j) assign(vector.x[j], from.x[a * length + j]);
    store_word(reinterpret_cast<AlignedVector<N, S>*>(to)[a].word, vector.word);
  }
}

// A tensor of the launch's type T; null if it is undefined.
struct Operand {
  void* data = nullptr;

  Operand() = default;
  explicit Operand(const Tensor& t) : data(t.defined() ? t.raw() : nullptr) {}
  template <class T, int N>
  __device__ FloatVector<N> operator[](VectorIndex<T, N> p) const {
    return load<N>(static_cast<const T*>(data) + p.first);
  }
  template <class T, int N>
  __device__ void store(VectorIndex<T, N> p, const FloatVector<N>& x) const {
    cuda::store(static_cast<T*>(data) + p.first, x);
  }
  __device__ explicit operator bool() const { return data != nullptr; }
};

// A tensor of a type of its own, f32 or bf16: a weight, an f32 table.
struct AnyTypeOperand {
  FloatPointer pointer;

  explicit AnyTypeOperand(const Tensor& t) : pointer(float_pointer(t)) {}
  template <class T, int N>
  __device__ FloatVector<N> operator[](VectorIndex<T, N> p) const {
    return pointer.is_bf16 ? load<N>(static_cast<const bf16*>(pointer.data) + p.first)
                           : load<N>(static_cast<const float*>(pointer.data) + p.first);
  }
  template <class T, int N>
  __device__ void store(VectorIndex<T, N> p, const FloatVector<N>& x) const {
    pointer.is_bf16 ? cuda::store(static_cast<bf16*>(pointer.data) + p.first, x)
                    : cuda::store(static_cast<float*>(pointer.data) + p.first, x);
  }
  __device__ float operator[](int64_t i) const { return pointer[i]; }
};

// A Gradient (runtime/gradient.h) of the launch's type; null if it is not wanted.
struct GradientOutput {
  Operand out, base;

  explicit GradientOutput(const Gradient& g) : out(g.out), base(g.base) {}
  template <class T, int N>
  __device__ void write(VectorIndex<T, N> p, const FloatVector<N>& x) const {
    out.store(p, base ? base[p] + x : x);
  }
  __device__ explicit operator bool() const { return bool(out); }
};

// The type of a launch's tensors, and whether their alignment allows vectorised access.
struct VectorWidth {
  DType type;
  bool vectorized;

  // Undefined tensors are ignored; those in `alike` must have one type, those in `others` any.
  VectorWidth(std::initializer_list<Tensor> alike, std::initializer_list<Tensor> others = {})
      : vectorized(true) {
    const Tensor* first = nullptr;
    for (const Tensor& t : alike) {
      if (!t.defined()) continue;
      if (!first) first = &t;
      if (t.dtype() != first->dtype())
        fail("a kernel's tensors {} and {} are {} and {}: expected one type", to_string(first->shape()),
             to_string(t.shape()), to_string(first->dtype()), to_string(t.dtype()));
      vectorized = vectorized && is_aligned<16>(static_cast<const char*>(t.raw()));
    }
    type = first->dtype();
    WUNENG_ASSERT(type == DType::f32 || type == DType::bf16);
    for (const Tensor& t : others)
      vectorized = vectorized && (!t.defined() || is_aligned<16>(static_cast<const char*>(t.raw())));
  }
  int elements() const { return type == DType::bf16 ? kVectorLength<bf16> : kVectorLength<float>; }
  // If vectors must not cross multiples of `unit` elements.
  VectorWidth for_units_of(int64_t unit) const {
    VectorWidth w = *this;
    w.vectorized = vectorized && unit % elements() == 0;
    return w;
  }
};

template <class T, class F>
__global__ void __launch_bounds__(kBlock) for_each_vector_kernel(int64_t vectors, int64_t n, F f) {
  constexpr int N = kVectorLength<T>;
  const int64_t first = int64_t{blockIdx.x} * blockDim.x + threadIdx.x,
                step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = first; i < vectors; i += step) f(VectorIndex<T, N>{i * N});
  for (int64_t i = vectors * N + first; i < n; i += step) f(VectorIndex<T, 1>{i});
}

// f(vector index) for vectors that cover 0 <= i < n; f is a generic __device__ lambda that captures by value.
template <class F>
void for_each(const Stream& stream, const char* name, const VectorWidth& width, int64_t n, F f) {
  const int64_t vectors = width.vectorized ? n / width.elements() : 0,
                most = std::max(vectors, n - vectors * width.elements());
  launch(stream, name,
         width.type == DType::bf16 ? for_each_vector_kernel<bf16, F> : for_each_vector_kernel<float, F>,
         dim3(std::min(blocks_for(most, kBlock), 1u << 20)), dim3(kBlock), 0, vectors, n, f);
}

template <class T, int N, class F>
__device__ void for_each_vector_in_rows(int64_t rows, int64_t columns, const F& f) {
  const int64_t c = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * N;
  if (c >= columns) return;
  for (int64_t t = int64_t{blockIdx.y} * blockDim.y + threadIdx.y; t < rows;
       t += int64_t{gridDim.y} * blockDim.y)
    f(t, VectorIndex<T, N>{c});
}

template <class T, class F>
__global__ void __launch_bounds__(kBlock)
    for_each_vector_in_rows_kernel(bool vectorized, int64_t rows, int64_t columns, F f) {
  if (vectorized)
    for_each_vector_in_rows<T, kVectorLength<T>>(rows, columns, f);
  else
    for_each_vector_in_rows<T, 1>(rows, columns, f);
}

// f(row, vector index) for 0 <= row < rows and vectors that cover 0 <= c < columns of row-major tensors; no
// vector crosses a multiple of `unit` columns, which divides `columns`. A thread keeps its columns over
// several rows, so that what depends on the column alone, such as a division, is computed once for them.
template <class F>
void for_each_in_rows(const Stream& stream, const char* name, const VectorWidth& tensors, int64_t rows,
                      int64_t columns, int64_t unit, F f) {
  constexpr int64_t kRowsPerThread = 4, kMostBlocks = 65535;  // of a grid in y
  const VectorWidth width = tensors.for_units_of(unit);
  const int64_t vectors = width.vectorized ? columns / width.elements() : columns;
  unsigned across = kWarp;
  while (across < kBlock && across < vectors) across *= 2;
  const dim3 block(across, kBlock / across);
  launch(stream, name,
         width.type == DType::bf16 ? for_each_vector_in_rows_kernel<bf16, F>
                                   : for_each_vector_in_rows_kernel<float, F>,
         dim3(blocks_for(vectors, across), static_cast<unsigned>(std::min<int64_t>(
                                               kMostBlocks, blocks_for(rows, block.y * kRowsPerThread)))),
         block, 0, width.vectorized, rows, columns, f);
}

}  // namespace wuneng::cuda
