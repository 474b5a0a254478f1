#include "kernels/channel.h"
#include "kernels/cuda/column_reduce.h"
#include "kernels/cuda/upload.h"

namespace wuneng::kernels::cuda {

using wuneng::cuda::Floats;
using wuneng::cuda::floats;
using wuneng::cuda::for_each;
using wuneng::cuda::for_each_in_rows;

namespace {

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

}  // namespace

void add_bias(const Stream& stream, const BiasArgs& args) {
  const Floats x = floats(args.x), b = floats(args.bias), y = floats(args.y);
  const int64_t C = args.bias.numel();
  for_each_in_rows(stream, "add_bias", args.x.dim(0), C,
                   [=] __device__(int64_t t, int64_t c) { y.set(t * C + c, x[t * C + c] + b[c]); });
}

void column_sum(const Stream& stream, const ColumnSumArgs& args) {
  const int64_t C = args.dbias.numel();
  const Floats dy = floats(args.dy);
  column_reduce(stream, "column_sum", args.dy.dim(0), C, args.dbias,
                [=] __device__(int64_t t, int64_t c) { return dy[t * C + c]; });
}

void bias_sigmoid(const Stream& stream, const BiasSigmoidArgs& args) {
  const Floats x = floats(args.x), b = floats(args.bias), y = floats(args.y);
  const float scale = args.scale;
  const int64_t C = args.bias.numel();
  for_each_in_rows(stream, "bias_sigmoid", args.x.dim(0), C, [=] __device__(int64_t t, int64_t c) {
    y.set(t * C + c, scale * sigmoid(x[t * C + c] + b[c]));
  });
}

void bias_sigmoid_backward(const Stream& stream, const BiasSigmoidBackwardArgs& args) {
  const Floats y = floats(args.y), dy = floats(args.dy);
  const float inverse = 1 / args.scale;
  const int64_t T = args.dy.dim(0), C = args.dy.numel() / std::max<int64_t>(1, T);
  if (args.dx.defined()) {
    const Floats dx = floats(args.dx);
    for_each(stream, "bias_sigmoid backward", T * C,
             [=] __device__(int64_t i) { dx.add(i, dy[i] * y[i] * (1 - y[i] * inverse)); });
  }
  if (args.dbias.defined())
    column_reduce(stream, "bias_sigmoid backward", T, C, args.dbias, [=] __device__(int64_t t, int64_t c) {
      const int64_t i = t * C + c;
      return dy[i] * y[i] * (1 - y[i] * inverse);
    });
}

void key_scale(const Stream& stream, const KeyScaleArgs& args) {
  const Floats key = floats(args.key), rate = floats(args.rate), w = floats(args.k_a), y = floats(args.y);
  const int64_t C = args.k_a.numel();
  for_each_in_rows(stream, "key_scale", args.key.dim(0), C, [=] __device__(int64_t t, int64_t c) {
    const int64_t i = t * C + c;
    y.set(i, key[i] * (1 + (rate[i] - 1) * w[c]));
  });
}

void key_scale_backward(const Stream& stream, const KeyScaleBackwardArgs& args) {
  const Floats key = floats(args.key), rate = floats(args.rate), w = floats(args.k_a), dy = floats(args.dy),
               dkey = floats(args.dkey), drate = floats(args.drate);
  const int64_t T = args.dy.dim(0), C = args.k_a.numel();
  for_each_in_rows(stream, "key_scale backward", T, C, [=] __device__(int64_t t, int64_t c) {
    const int64_t i = t * C + c;
    const float wi = w[c];
    if (dkey) dkey.add(i, dy[i] * (1 + (rate[i] - 1) * wi));
    drate.add(i, dy[i] * key[i] * wi);
  });
  if (args.dk_a.defined())
    column_reduce(stream, "key_scale backward", T, C, args.dk_a, [=] __device__(int64_t t, int64_t c) {
      const int64_t i = t * C + c;
      return dy[i] * key[i] * (rate[i] - 1);
    });
}

namespace {

// For every row whether it begins a document: 1, or ends one: 2.
Tensor document_edges(const std::vector<int64_t>& documents, int64_t T, Device device) {
  std::vector<int32_t> edges(T, 0);
  for (size_t d = 0; d + 1 < documents.size(); ++d)
    if (documents[d] < documents[d + 1]) edges[documents[d]] |= 1, edges[documents[d + 1] - 1] |= 2;
  return upload(edges, device);
}

}  // namespace

void token_shift(const Stream& stream, const TokenShiftArgs& args) {
  const Tensor edges = document_edges(args.documents, args.x.dim(0), args.x.device());
  const Floats x = floats(args.x), w = floats(args.mu), y = floats(args.y);
  const int64_t C = args.mu.numel();
  const int32_t* edge = edges.data<int32_t>();
  for_each_in_rows(stream, "token_shift", args.x.dim(0), C, [=] __device__(int64_t t, int64_t c) {
    const int64_t i = t * C + c;
    const float before = edge[t] & 1 ? 0.0f : x[i - C];
    y.set(i, x[i] + (before - x[i]) * w[c]);
  });
}

void token_shift_backward(const Stream& stream, const TokenShiftBackwardArgs& args) {
  const Tensor edges = document_edges(args.documents, args.x.dim(0), args.x.device());
  const Floats x = floats(args.x), w = floats(args.mu), dy = floats(args.dy);
  const int64_t T = args.x.dim(0), C = args.mu.numel();
  const int32_t* edge = edges.data<int32_t>();
  if (args.dx.defined()) {
    const Floats dx = floats(args.dx);
    for_each_in_rows(stream, "token_shift backward", T, C, [=] __device__(int64_t t, int64_t c) {
      const int64_t i = t * C + c;
      const float after = edge[t] & 2 ? 0.0f : dy[i + C], wi = w[c];
      dx.add(i, dy[i] * (1 - wi) + after * wi);
    });
  }
  if (args.dmu.defined())
    column_reduce(stream, "token_shift backward", T, C, args.dmu, [=] __device__(int64_t t, int64_t c) {
      const int64_t i = t * C + c;
      return dy[i] * ((edge[t] & 1 ? 0.0f : x[i - C]) - x[i]);
    });
}

void scale_heads(const Stream& stream, const ScaleHeadsArgs& args) {
  const Floats x = floats(args.x), s = floats(args.s), base = floats(args.base), y = floats(args.y);
  const int64_t D = args.x.dim(2), C = args.x.dim(1) * D;
  for_each_in_rows(stream, "scale_heads", args.x.dim(0), C, [=] __device__(int64_t t, int64_t c) {
    const int64_t i = t * C + c;
    y.set(i, (base ? base[i] : 0.0f) + s[c / D] * x[i]);
  });
}

void scale_heads_backward(const Stream& stream, const ScaleHeadsBackwardArgs& args) {
  const Floats x = floats(args.x), s = floats(args.s), dy = floats(args.dy);
  const int64_t T = args.x.dim(0), H = args.x.dim(1), D = args.x.dim(2), C = H * D;
  if (args.dx.defined()) {
    const Floats dx = floats(args.dx);
    for_each_in_rows(stream, "scale_heads backward", T, C,
                     [=] __device__(int64_t t, int64_t c) { dx.add(t * C + c, s[c / D] * dy[t * C + c]); });
  }
  if (args.ds.defined())
    column_reduce(stream, "scale_heads backward", T, H, args.ds, [=] __device__(int64_t t, int64_t h) {
      float sum = 0;
      for (int64_t c = 0; c < D; ++c) sum += x[(t * H + h) * D + c] * dy[(t * H + h) * D + c];
      return sum;
    });
}

}  // namespace wuneng::kernels::cuda
