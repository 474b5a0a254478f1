// Passes over memory, 16 bytes a thread and an access: an elementwise kernel is one function of a Place,
// which stands for one element or for as many neighbours as fill 16 bytes.
//
// T is the type of the launch's activations (float or bf16); all of them have it. Arithmetic is f32.
#pragma once
#include <initializer_list>
#include <type_traits>

#include "runtime/cuda/launch.h"
#include "runtime/gradient.h"

namespace wuneng::cuda {

template <class T>
inline constexpr int kWide = 16 / sizeof(T);  // elements

// N neighbouring elements from `at` on, of tensors of T.
template <class T, int N>
struct Place {
  int64_t at;
  __device__ Place operator+(int64_t i) const { return {at + i}; }
  __device__ Place operator-(int64_t i) const { return {at - i}; }
};
template <class T, int N>
__device__ Place<T, N> operator+(int64_t i, Place<T, N> p) {
  return p + i;
}

// Their values.
template <int N>
struct Values {
  float x[N] = {};
};
template <int N, class F>
__device__ Values<N> map(Values<N> a, F f) {
#pragma unroll
  for (float& x : a.x) x = f(x);
  return a;
}
template <int N, class F>
__device__ Values<N> map(Values<N> a, const Values<N>& b, F f) {
#pragma unroll
  for (int j = 0; j < N; ++j) a.x[j] = f(a.x[j], b.x[j]);
  return a;
}
template <int N>
__device__ float sum_of(const Values<N>& a) {
  float sum = 0;
#pragma unroll
  for (const float x : a.x) sum += x;
  return sum;
}
#define WUNENG_VALUES_OPERATOR(op)                                           \
  template <int N>                                                           \
  __device__ Values<N> operator op(const Values<N>& a, const Values<N>& b) { \
    return map(a, b, [](float x, float y) { return x op y; });               \
  }                                                                          \
  template <int N>                                                           \
  __device__ Values<N> operator op(const Values<N>& a, float b) {            \
    return map(a, [b](float x) { return x op b; });                          \
  }                                                                          \
  template <int N>                                                           \
  __device__ Values<N> operator op(float a, const Values<N>& b) {            \
    return map(b, [a](float x) { return a op x; });                          \
  }
WUNENG_VALUES_OPERATOR(+)
WUNENG_VALUES_OPERATOR(-)
WUNENG_VALUES_OPERATOR(*)
#undef WUNENG_VALUES_OPERATOR

// What one access moves of N elements of S. Moved as a word, and stored as one by name: the compiler cuts a
// struct's copy in pieces, which it does not always put together again.
template <int bytes>
using Word = std::conditional_t<
    bytes == 16, uint4,
    std::conditional_t<bytes == 8, uint2, std::conditional_t<bytes == 4, unsigned, unsigned short>>>;
template <int N, class S>
union Part {
  Word<std::min<int>(16, N * sizeof(S))> word;
  S x[std::min<size_t>(16 / sizeof(S), N)];
  __device__ Part() {}
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

// May N elements of S be read from p at once?
template <int N, class S>
__host__ __device__ bool fits(const S* p) {
  return reinterpret_cast<uintptr_t>(p) % sizeof(Part<N, S>) == 0;
}

template <int N, class S>
__device__ void check_alignment([[maybe_unused]] const S* p) {
#ifndef __CUDACC__  // a GPU finds it itself
  if (!fits<N>(p)) fail("{} bytes at {}", N * sizeof(S), fmt::ptr(p));
#endif
}

// N elements of S at `from`, which is aligned to their size or to 16 bytes, whichever is less.
template <int N, class S>
__device__ Values<N> load(const S* from) {
  constexpr int parts = sizeof(S) * N / sizeof(Part<N, S>), each = N / parts;
  check_alignment<N>(from);
  Values<N> to;
#pragma unroll
  for (int p = 0; p < parts; ++p) {
    Part<N, S> part;
    part.word = reinterpret_cast<const Part<N, S>*>(from)[p].word;
#pragma unroll
    for (int j = 0; j < each; ++j) to.x[p * each + j] = as_float(part.x[j]);
  }
  return to;
}
// The same in global memory, the other way.
template <int N, class S>
__device__ void store(S* to, const Values<N>& from) {
  constexpr int parts = sizeof(S) * N / sizeof(Part<N, S>), each = N / parts;
  check_alignment<N>(to);
#pragma unroll
  for (int p = 0; p < parts; ++p) {
    Part<N, S> part;
#pragma unroll
    for (int j = 0; j < each; ++j) assign(part.x[j], from.x[p * each + j]);
    store_word(reinterpret_cast<Part<N, S>*>(to)[p].word, part.word);
  }
}

// A tensor of the launch's type; null where it is undefined.
struct Elements {
  void* data = nullptr;

  Elements() = default;
  explicit Elements(const Tensor& t) : data(t.defined() ? t.raw() : nullptr) {}
  template <class T, int N>
  __device__ Values<N> operator[](Place<T, N> p) const {
    return load<N>(static_cast<const T*>(data) + p.at);
  }
  template <class T, int N>
  __device__ void set(Place<T, N> p, const Values<N>& x) const {
    store(static_cast<T*>(data) + p.at, x);
  }
  __device__ explicit operator bool() const { return data != nullptr; }
};

// A tensor of a type of its own: a weight, an f32 table.
struct Others {
  Floats all;

  explicit Others(const Tensor& t) : all(floats(t)) {}
  template <class T, int N>
  __device__ Values<N> operator[](Place<T, N> p) const {
    return all.narrow ? load<N>(static_cast<const bf16*>(all.data) + p.at)
                      : load<N>(static_cast<const float*>(all.data) + p.at);
  }
  template <class T, int N>
  __device__ void set(Place<T, N> p, const Values<N>& x) const {
    all.narrow ? store(static_cast<bf16*>(all.data) + p.at, x)
               : store(static_cast<float*>(all.data) + p.at, x);
  }
  __device__ float operator[](int64_t i) const { return all[i]; }
};

// A gradient of the launch's type; null where it is not wanted.
struct Sum {
  Elements out, base;

  explicit Sum(const Gradient& g) : out(g.out), base(g.base) {}
  template <class T, int N>
  __device__ void put(Place<T, N> p, const Values<N>& x) const {
    out.set(p, base ? base[p] + x : x);
  }
  __device__ explicit operator bool() const { return bool(out); }
};

// What a launch's tensors allow: their type, and whether 16 bytes may be read from where each begins.
struct Width {
  DType type;
  bool wide;

  // All that are defined; `alike` have one type, `others` any.
  Width(std::initializer_list<Tensor> alike, std::initializer_list<Tensor> others = {}) : wide(true) {
    const Tensor* first = nullptr;
    for (const Tensor& t : alike) {
      if (!t.defined()) continue;
      if (!first) first = &t;
      if (t.dtype() != first->dtype())
        fail("a kernel's tensors {} and {} are {} and {}: expected one type", to_string(first->shape()),
             to_string(t.shape()), to_string(first->dtype()), to_string(t.dtype()));
      wide = wide && fits<16>(static_cast<const char*>(t.raw()));
    }
    type = first->dtype();
    WUNENG_ASSERT(type == DType::f32 || type == DType::bf16);
    for (const Tensor& t : others)
      wide = wide && (!t.defined() || fits<16>(static_cast<const char*>(t.raw())));
  }
  int elements() const { return type == DType::bf16 ? kWide<bf16> : kWide<float>; }
  // The same for pieces of `unit` elements each.
  Width for_each_of(int64_t unit) const {
    Width w = *this;
    w.wide = wide && unit % elements() == 0;
    return w;
  }
};

template <class T, class F>
__global__ void __launch_bounds__(kBlock) each_place_kernel(int64_t wide, int64_t n, F f) {
  constexpr int N = kWide<T>;
  const int64_t first = int64_t{blockIdx.x} * blockDim.x + threadIdx.x,
                step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = first; i < wide; i += step) f(Place<T, N>{i * N});
  for (int64_t i = wide * N + first; i < n; i += step) f(Place<T, 1>{i});
}

// f(place) for places that cover 0 <= i < n; f is a generic __device__ lambda that captures by value.
template <class F>
void for_each(const Stream& stream, const char* name, const Width& width, int64_t n, F f) {
  const int64_t wide = width.wide ? n / width.elements() : 0,
                most = std::max(wide, n - wide * width.elements());
  launch(stream, name, width.type == DType::bf16 ? each_place_kernel<bf16, F> : each_place_kernel<float, F>,
         dim3(std::min(blocks_for(most, kBlock), 1u << 20)), dim3(kBlock), 0, wide, n, f);
}

template <class T, int N, class F>
__device__ void places_in_rows(int64_t rows, int64_t columns, const F& f) {
  const int64_t c = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * N;
  if (c >= columns) return;
  for (int64_t t = int64_t{blockIdx.y} * blockDim.y + threadIdx.y; t < rows;
       t += int64_t{gridDim.y} * blockDim.y)
    f(t, Place<T, N>{c});
}

template <class T, class F>
__global__ void __launch_bounds__(kBlock)
    places_in_rows_kernel(bool wide, int64_t rows, int64_t columns, F f) {
  if (wide)
    places_in_rows<T, kWide<T>>(rows, columns, f);
  else
    places_in_rows<T, 1>(rows, columns, f);
}

// f(t, place) for 0 <= t < rows and places that cover 0 <= c < columns, rows of memory being consecutive
// columns; none goes over a multiple of `unit` columns, which divides them. A thread keeps its place over
// some rows, so that what depends on c alone, a division above all, is computed once for them.
template <class F>
void for_each_in_rows(const Stream& stream, const char* name, const Width& tensors, int64_t rows,
                      int64_t columns, int64_t unit, F f) {
  constexpr int64_t kRowsEach = 4, kMostBlocks = 65535;  // of a grid's y
  const Width width = tensors.for_each_of(unit);
  const int64_t places = width.wide ? columns / width.elements() : columns;
  unsigned across = kWarp;
  while (across < kBlock && across < places) across *= 2;
  const dim3 block(across, kBlock / across);
  launch(stream, name,
         width.type == DType::bf16 ? places_in_rows_kernel<bf16, F> : places_in_rows_kernel<float, F>,
         dim3(blocks_for(places, across),
              static_cast<unsigned>(std::min<int64_t>(kMostBlocks, blocks_for(rows, block.y * kRowsEach)))),
         block, 0, width.wide, rows, columns, f);
}

}  // namespace wuneng::cuda
