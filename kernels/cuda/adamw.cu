#include "kernels/adamw.h"
#include "kernels/cuda/pieces.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

struct Shard {
  float *w, *m, *v, *g;
  bf16* stored;
  int64_t n;
  float decay;
  int32_t none = 0;  // no byte is left to chance: tables are known by their content
};
struct Numbers {
  float lr, b1, b2, eps, scale, rate, correction;
};

// A block a piece.
__global__ void __launch_bounds__(kBlock)
    adamw_kernel(const Shard* shards, const int64_t* pieces, Numbers x) {
  const Shard s = shards[pieces[2 * blockIdx.x]];
  const int64_t begin = pieces[2 * blockIdx.x + 1], end = min(s.n, begin + kPiece);
  for (int64_t i = begin + threadIdx.x; i < end; i += kBlock) {
    const float g = s.g[i] * x.scale;
    const float m = x.b1 * s.m[i] + (1 - x.b1) * g, v = x.b2 * s.v[i] + (1 - x.b2) * g * g;
    const float w = s.w[i] - (x.rate * m / (sqrtf(v) * x.correction + x.eps) + x.lr * s.decay * s.w[i]);
    s.m[i] = m;
    s.v[i] = v;
    s.w[i] = w;
    s.g[i] = 0;
    if (s.stored) assign(s.stored[i], w);
  }
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
                      one.stored.defined() ? one.stored.data<bf16>() : nullptr, n, one.decay});
    sizes.push_back(n);
  }
  const Tensor pieces = piece_table(sizes, stream.device), table = upload_structs(shards, stream.device);
  launch(stream, "adamw", adamw_kernel, dim3(pieces.numel() / 2), dim3(kBlock), 0,
         static_cast<const Shard*>(table.raw()), pieces.data<int64_t>(),
         Numbers{args.lr, args.beta1, args.beta2, args.eps, args.gradient_scale, args.rate(),
                 args.correction()});
}

}  // namespace wuneng::kernels::cuda
