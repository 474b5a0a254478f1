// Functions with a parameter per channel or per head, the same for all T rows. Backward kernels accumulate
// into the gradients of parameters. Every gradient may be undefined: it is then not computed.
#pragma once
#include "kernels/backend.h"

namespace wuneng::kernels {

// y = x + bias over rows [T, C].
struct BiasArgs {
  Tensor x, bias, y;  // bias: weight [C]; y may be x
};
WUNENG_KERNEL(add_bias, BiasArgs);

// dbias [C] += column sums of dy [T, C].
struct ColumnSumArgs {
  Tensor dy, dbias;
};
WUNENG_KERNEL(column_sum, ColumnSumArgs);

// y = scale * sigmoid(x + bias): the log of the decay (scale = -e^(-1/2)) and the rate (scale = 1).
struct BiasSigmoidArgs {
  Tensor x, bias;  // [T, C], weight [C]
  float scale;
  Tensor y;  // [T, C]
};
WUNENG_KERNEL(bias_sigmoid, BiasSigmoidArgs);
struct BiasSigmoidBackwardArgs {
  Tensor y, dy;
  float scale;
  Gradient dx;
  Tensor dbias;
};
WUNENG_KERNEL(bias_sigmoid_backward, BiasSigmoidBackwardArgs);

// y = key (1 + (rate - 1) k_a): the replacement key.
struct KeyScaleArgs {
  Tensor key, rate, k_a, y;  // [T, C], k_a weight [C]
};
WUNENG_KERNEL(key_scale, KeyScaleArgs);
struct KeyScaleBackwardArgs {
  Tensor key, rate, k_a, dy;
  Gradient dkey, drate;
  Tensor dk_a;
};
WUNENG_KERNEL(key_scale_backward, KeyScaleBackwardArgs);

// y_t = x_t + (x_{t-1} - x_t) mu, with x_{-1} = 0 before each document's first row.
inline constexpr int32_t kDocumentBegins = 1, kDocumentEnds = 2;  // bits of document_boundaries
struct TokenShiftArgs {
  Tensor x, mu, y;             // [T, C], weight [C]
  Tensor document_boundaries;  // [T] i32: the bits of the documents that begin or end at the row
};
WUNENG_KERNEL(token_shift, TokenShiftArgs);
struct TokenShiftBackwardArgs {
  Tensor x, mu, dy;
  Gradient dx;
  Tensor dmu, document_boundaries;
};
WUNENG_KERNEL(token_shift_backward, TokenShiftBackwardArgs);

// y = factor w x over rows [T, C].
struct ScaleChannelsArgs {
  Tensor x, w;  // w: weight [C]
  float factor;
  Tensor y;
};
WUNENG_KERNEL(scale_channels, ScaleChannelsArgs);
struct ScaleChannelsBackwardArgs {
  Tensor x, w, dy;
  float factor;
  Gradient dx;
  Tensor dw;
};
WUNENG_KERNEL(scale_channels_backward, ScaleChannelsBackwardArgs);

// y = base + s_h x_h for x [T, H, D] and s [H]; base undefined: 0.
struct ScaleHeadsArgs {
  Tensor x, s, base, y;
};
WUNENG_KERNEL(scale_heads, ScaleHeadsArgs);
struct ScaleHeadsBackwardArgs {
  Tensor x, s, dy;
  Gradient dx;
  Tensor ds;  // base's gradient is dy itself
};
WUNENG_KERNEL(scale_heads_backward, ScaleHeadsBackwardArgs);

}  // namespace wuneng::kernels
