#include "kernels/channel.h"
#include "kernels/cuda/common/column_reduce.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

template <int N>
__device__ FloatVector<N> sigmoid(const FloatVector<N>& x) {
  return map(x, [](float v) { return 1.0f / (1.0f + expf(-v)); });
}

}  // namespace

void add_bias(const Stream& stream, const BiasArgs& args) {
  const Operand x(args.x), y(args.y);
  const AnyTypeOperand b(args.bias);
  const int64_t C = args.bias.numel();
  for_each_in_rows(stream, "add_bias", VectorWidth({args.x, args.y}, {args.bias}), args.x.dim(0), C, C,
                   [=] __device__(int64_t t, auto c) { y.store(t * C + c, x[t * C + c] + b[c]); });
}

void column_sum(const Stream& stream, const ColumnSumArgs& args) {
  const int64_t C = args.dbias.numel();
  const Operand dy(args.dy);
  column_reduce(stream, "column_sum", VectorWidth({args.dy}), args.dy.dim(0), C, C, args.dbias,
                [=] __device__(int64_t t, auto c) { return dy[t * C + c]; });
}

void bias_sigmoid(const Stream& stream, const BiasSigmoidArgs& args) {
  const Operand x(args.x), y(args.y);
  const AnyTypeOperand b(args.bias);
  const float scale = args.scale;
  const int64_t C = args.bias.numel();
  for_each_in_rows(
      stream, "bias_sigmoid", VectorWidth({args.x, args.y}, {args.bias}), args.x.dim(0), C, C,
      [=] __device__(int64_t t, auto c) { y.store(t * C + c, scale * sigmoid(x[t * C + c] + b[c])); });
}

void bias_sigmoid_backward(const Stream& stream, const BiasSigmoidBackwardArgs& args) {
  const Operand y(args.y), dy(args.dy);
  const GradientOutput dx(args.dx);
  const VectorWidth width({args.dy, args.y, args.dx.out, args.dx.base});
  const float inverse = 1 / args.scale;
  const int64_t T = args.dy.dim(0), C = args.dy.numel() / std::max<int64_t>(1, T);
  for_each_with_column_sums(stream, "bias_sigmoid backward", width, T, C, C, args.dbias,
                            [=] __device__(int64_t t, auto c) {
                              const auto i = t * C + c;
                              const auto yi = y[i], slope = dy[i] * yi * (1 - yi * inverse);
                              if (dx) dx.write(i, slope);
                              return slope;
                            });
}

void key_scale(const Stream& stream, const KeyScaleArgs& args) {
  const Operand key(args.key), rate(args.rate), y(args.y);
  const AnyTypeOperand w(args.k_a);
  const int64_t C = args.k_a.numel();
  for_each_in_rows(stream, "key_scale", VectorWidth({args.key, args.rate, args.y}, {args.k_a}),
                   args.key.dim(0), C, C, [=] __device__(int64_t t, auto c) {
                     const auto i = t * C + c;
                     y.store(i, key[i] * (1 + (rate[i] - 1) * w[c]));
                   });
}

void key_scale_backward(const Stream& stream, const KeyScaleBackwardArgs& args) {
  const Operand key(args.key), rate(args.rate), dy(args.dy);
  const AnyTypeOperand w(args.k_a);
  const GradientOutput dkey(args.dkey), drate(args.drate);
  const VectorWidth width(
      {args.dy, args.key, args.rate, args.dkey.out, args.dkey.base, args.drate.out, args.drate.base},
      {args.k_a});
  const int64_t T = args.dy.dim(0), C = args.k_a.numel();
  for_each_with_column_sums(stream, "key_scale backward", width, T, C, C, args.dk_a,
                            [=] __device__(int64_t t, auto c) {
                              const auto i = t * C + c;
                              const auto wi = w[c], dyi = dy[i], ki = key[i], less = rate[i] - 1;
                              if (dkey) dkey.write(i, dyi * (1 + less * wi));
                              if (drate) drate.write(i, dyi * ki * wi);
                              return dyi * ki * less;
                            });
}

void token_shift(const Stream& stream, const TokenShiftArgs& args) {
  const Operand x(args.x), y(args.y);
  const AnyTypeOperand w(args.mu);
  const int64_t C = args.mu.numel();
  const int32_t* boundary = args.document_boundaries.data<int32_t>();
  for_each_in_rows(stream, "token_shift", VectorWidth({args.x, args.y}, {args.mu}), args.x.dim(0), C, C,
                   [=] __device__(int64_t t, auto c) {
                     const auto i = t * C + c;
                     const auto now = x[i];
                     const auto before = boundary[t] & kDocumentBegins ? decltype(now)() : x[i - C];
                     y.store(i, now + (before - now) * w[c]);
                   });
}

void token_shift_backward(const Stream& stream, const TokenShiftBackwardArgs& args) {
  const Operand x(args.x), dy(args.dy);
  const AnyTypeOperand w(args.mu);
  const GradientOutput dx(args.dx);
  const VectorWidth width({args.dy, args.x, args.dx.out, args.dx.base}, {args.mu});
  const int64_t T = args.x.dim(0), C = args.mu.numel();
  const int32_t* boundary = args.document_boundaries.data<int32_t>();
  for_each_with_column_sums(stream, "token_shift backward", width, T, C, C, args.dmu,
                            [=] __device__(int64_t t, auto c) {
                              const auto i = t * C + c;
                              const auto gradient = dy[i], now = x[i], wi = w[c];
                              const auto after = boundary[t] & kDocumentEnds ? decltype(now)() : dy[i + C],
                                         before = boundary[t] & kDocumentBegins ? decltype(now)() : x[i - C];
                              if (dx) dx.write(i, gradient * (1 - wi) + after * wi);
                              return gradient * (before - now);
                            });
}

void scale_channels(const Stream& stream, const ScaleChannelsArgs& args) {
  const Operand x(args.x), y(args.y);
  const AnyTypeOperand w(args.w);
  const float factor = args.factor;
  const int64_t C = args.w.numel();
  for_each_in_rows(stream, "scale_channels", VectorWidth({args.x, args.y}, {args.w}), args.x.dim(0), C, C,
                   [=] __device__(int64_t t, auto c) { y.store(t * C + c, factor * w[c] * x[t * C + c]); });
}

void scale_channels_backward(const Stream& stream, const ScaleChannelsBackwardArgs& args) {
  const Operand x(args.x), dy(args.dy);
  const AnyTypeOperand w(args.w);
  const GradientOutput dx(args.dx);
  const VectorWidth width({args.dy, args.x, args.dx.out, args.dx.base}, {args.w});
  const float factor = args.factor;
  const int64_t T = args.dy.dim(0), C = args.w.numel();
  for_each_with_column_sums(stream, "scale_channels backward", width, T, C, C, args.dw,
                            [=] __device__(int64_t t, auto c) {
                              const auto i = t * C + c;
                              const auto scaled = factor * dy[i];
                              if (dx) dx.write(i, w[c] * scaled);
                              return x[i] * scaled;
                            });
}

void scale_heads(const Stream& stream, const ScaleHeadsArgs& args) {
  const Operand x(args.x), base(args.base), y(args.y);
  const AnyTypeOperand s(args.s);
  const int64_t D = args.x.dim(2), C = args.x.dim(1) * D;
  for_each_in_rows(stream, "scale_heads", VectorWidth({args.x, args.base, args.y}), args.x.dim(0), C, D,
                   [=] __device__(int64_t t, auto c) {
                     const auto i = t * C + c;
                     const auto scaled = s[c.first / D] * x[i];
                     y.store(i, base ? base[i] + scaled : scaled);
                   });
}

void scale_heads_backward(const Stream& stream, const ScaleHeadsBackwardArgs& args) {
  const Operand x(args.x), dy(args.dy);
  const AnyTypeOperand s(args.s);
  const GradientOutput dx(args.dx);
  const VectorWidth width({args.dy, args.x, args.dx.out, args.dx.base});
  const int64_t T = args.x.dim(0), H = args.x.dim(1), D = args.x.dim(2), C = H * D;
  for_each_with_column_sums(stream, "scale_heads backward", width, T, C, D, args.ds,
                            [=] __device__(int64_t t, auto c) {
                              const auto i = t * C + c;
                              const auto dyi = dy[i];
                              if (dx) dx.write(i, s[c.first / D] * dyi);
                              return x[i] * dyi;
                            });
}

}  // namespace wuneng::kernels::cuda
