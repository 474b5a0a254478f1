#include "kernels/adamw.h"
#include "kernels/cuda/common/pieces.h"
#include "runtime/cuda/elements.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

constexpr int kFour = 4;  // f32 elements in 16 bytes

struct Shard {
  float *w, *m, *v, *g;
  bf16* stored;
  int64_t n;
  float decay;
  int32_t
      wide;  // all begin at a multiple of 16 bytes. No byte is left to chance: tables are known by content
};
struct Numbers {
  float lr, b1, b2, eps, scale, rate, correction;
};

// N elements from i on.
template <int N>
__device__ void update(const Shard& s, int64_t i, const Numbers& x) {
  const Values<N> g = load<N>(s.g + i) * x.scale, before = load<N>(s.w + i);
  const Values<N> m = x.b1 * load<N>(s.m + i) + (1 - x.b1) * g,
                  v = x.b2 * load<N>(s.v + i) + (1 - x.b2) * g * g;
  const Values<N> step = map(m, v, [&x](float mean, float square) {
    return x.rate * mean / (sqrtf(square) * x.correction + x.eps);
  });
  const Values<N> w = before - (step + x.lr * s.decay * before);
  store(s.m + i, m);
  store(s.v + i, v);
  store(s.w + i, w);
  store(s.g + i, Values<N>());
  if (s.stored) store(s.stored + i, w);
}

// A block a piece.
__global__ void __launch_bounds__(kBlock)
    adamw_kernel(const Shard* shards, const int64_t* pieces, Numbers x) {
  const Shard s = shards[pieces[2 * blockIdx.x]];
  const int64_t begin = pieces[2 * blockIdx.x + 1], end = min(s.n, begin + kPiece);
  const int64_t last = s.wide ? begin + (end - begin) / kFour * kFour : begin;
  for (int64_t i = begin + threadIdx.x * kFour; i < last; i += kBlock * kFour) update<kFour>(s, i, x);
  for (int64_t i = last + threadIdx.x; i < end; i += kBlock) update<1>(s, i, x);
}

}  // namespace

void adamw(const Stream& stream, const AdamwArgs& args) {
  std::vector<Shard> shards;
  std::vector<int64_t> sizes;
  for (const AdamwTensors& one : args.tensors) {
    const int64_t n = one.master.numel();
    for (const Tensor* t : {&one.m, &one.v, &one.gradient}) WUNENG_ASSERT(t->numel() == n);
    WUNENG_ASSERT(!one.stored.defined() || one.stored.numel() == n);
    shards.push_back({one.master.f32(), one.m.f32(), one.v.f32(), one.gradient.f32(),
                      one.stored.defined() ? one.stored.data<bf16>() : nullptr, n, one.decay,
                      Width({one.master, one.m, one.v, one.gradient}, {one.stored}).wide});
    sizes.push_back(n);
  }
  const Tensor pieces = piece_table(sizes, stream.device), table = upload_structs(shards, stream.device);
  launch(stream, "adamw", adamw_kernel, dim3(pieces.numel() / 2), dim3(kBlock), 0,
         static_cast<const Shard*>(table.raw()), pieces.data<int64_t>(),
         Numbers{args.lr, args.beta1, args.beta2, args.eps, args.gradient_scale, args.rate(),
                 args.correction()});
}

}  // namespace wuneng::kernels::cuda
