#include "kernels/adamw.h"
#include "kernels/cuda/common/multi_tensor.h"
#include "runtime/cuda/elements.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

constexpr int kFour = 4;  // f32 elements in 16 bytes

struct AdamwPointers {
  float *w, *m, *v, *g;
  bf16* stored;
  int64_t n;
  float decay;
  int32_t vectorized;  // all are 16-byte aligned. int32_t, so that the struct has no padding: tables are
                       // cached by their bytes (upload.h)
};
struct Hyperparameters {
  float lr, b1, b2, eps, rate, correction;
};

// Elements [i, i + N).
template <int N>
__device__ void update(const AdamwPointers& s, int64_t i, const Hyperparameters& x, float scale) {
  const FloatVector<N> g = load<N>(s.g + i) * scale, before = load<N>(s.w + i);
  const FloatVector<N> m = x.b1 * load<N>(s.m + i) + (1 - x.b1) * g,
                       v = x.b2 * load<N>(s.v + i) + (1 - x.b2) * g * g;
  const FloatVector<N> step = map(m, v, [&x](float mean, float square) {
    return x.rate * mean / (sqrtf(square) * x.correction + x.eps);
  });
  const FloatVector<N> w = before - (step + x.lr * s.decay * before);
  store(s.m + i, m);
  store(s.v + i, v);
  store(s.w + i, w);
  store(s.g + i, FloatVector<N>());
  if (s.stored) store(s.stored + i, w);
}

// One thread block for each row of block_table.
__global__ void __launch_bounds__(kBlock) adamw_kernel(const AdamwPointers* tensors, const int64_t* blocks,
                                                       Hyperparameters x, const float* gradient_scale) {
  const AdamwPointers s = tensors[blocks[2 * blockIdx.x]];
  const int64_t begin = blocks[2 * blockIdx.x + 1], end = min(s.n, begin + kBlockElements);
  const int64_t last = s.vectorized ? begin + (end - begin) / kFour * kFour : begin;
  const float scale = gradient_scale ? *gradient_scale : 1;
  if (scale != scale) {  // NaN
    for (int64_t i = begin + threadIdx.x; i < end; i += kBlock) s.g[i] = 0;
    return;
  }
  for (int64_t i = begin + threadIdx.x * kFour; i < last; i += kBlock * kFour) update<kFour>(s, i, x, scale);
  for (int64_t i = last + threadIdx.x; i < end; i += kBlock) update<1>(s, i, x, scale);
}

}  // namespace

void adamw(const Stream& stream, const AdamwArgs& args) {
  std::vector<AdamwPointers> tensors;
  std::vector<int64_t> sizes;
  for (const AdamwTensors& one : args.tensors) {
    const int64_t n = one.master.numel();
    for (const Tensor* t : {&one.m, &one.v, &one.gradient}) WUNENG_ASSERT(t->numel() == n);
    WUNENG_ASSERT(!one.stored.defined() || one.stored.numel() == n);
    tensors.push_back({one.master.f32(), one.m.f32(), one.v.f32(), one.gradient.f32(),
                       one.stored.defined() ? one.stored.data<bf16>() : nullptr, n, one.decay,
                       VectorWidth({one.master, one.m, one.v, one.gradient}, {one.stored}).vectorized});
    sizes.push_back(n);
  }
  const Tensor blocks = block_table(sizes, stream.device), table = upload_structs(tensors, stream.device);
  launch(stream, "adamw", adamw_kernel, dim3(blocks.numel() / 2), dim3(kBlock), 0,
         static_cast<const AdamwPointers*>(table.raw()), blocks.data<int64_t>(),
         Hyperparameters{args.lr, args.beta1, args.beta2, args.eps, args.rate(), args.correction()},
         static_cast<const float*>(f32_or_null(args.gradient_scale)));
}

}  // namespace wuneng::kernels::cuda
