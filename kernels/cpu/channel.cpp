#include "kernels/channel.h"

#include "kernels/cpu/simd.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

constexpr int64_t kRows = 16, kColumns = 64;  // minimum work of a thread

// f(t, c) for all rows and columns, rows split over threads.
template <class F>
void by_rows(int64_t T, int64_t C, const F& f) {
  parallel_for(T, kRows, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) f(t * C + c, c);
    }
  });
}

// The same with columns split over threads: the order of sums over rows does not depend on the thread count.
template <class F>
void by_columns(int64_t T, int64_t C, const F& f) {
  parallel_for(C, kColumns, [&](int64_t begin, int64_t end) {
    for (int64_t t = 0; t < T; ++t) {
#pragma omp simd
      for (int64_t c = begin; c < end; ++c) f(t * C + c, c);
    }
  });
}

}  // namespace

void add_bias(const Stream&, const BiasArgs& args) {
  const F32In bias(args.bias);
  const float *x = args.x.f32(), *b = bias.data();
  float* y = args.y.f32();
  const int64_t C = args.bias.numel();
  by_rows(args.x.dim(0), C, [=](int64_t i, int64_t c) { y[i] = x[i] + b[c]; });
}

void column_sum(const Stream&, const ColumnSumArgs& args) {
  const float* dy = args.dy.f32();
  float* db = args.dbias.f32();
  by_columns(args.dy.dim(0), args.dbias.numel(), [=](int64_t i, int64_t c) { db[c] += dy[i]; });
}

void bias_sigmoid(const Stream&, const BiasSigmoidArgs& args) {
  const F32In bias(args.bias);
  const float *x = args.x.f32(), *b = bias.data(), scale = args.scale;
  float* y = args.y.f32();
  by_rows(args.x.dim(0), args.bias.numel(),
          [=](int64_t i, int64_t c) { y[i] = scale * sigmoid(x[i] + b[c]); });
}

void bias_sigmoid_backward(const Stream&, const BiasSigmoidBackwardArgs& args) {
  const float *y = args.y.f32(), *dy = args.dy.f32(), inverse = 1 / args.scale;
  const auto slope = [=](int64_t i) { return dy[i] * y[i] * (1 - y[i] * inverse); };
  const int64_t T = args.dy.dim(0), C = args.dy.numel() / std::max<int64_t>(1, T);
  if (args.dx.defined())
    add_to(args.dx, [=](auto sum) { by_rows(T, C, [=](int64_t i, int64_t) { sum(i, slope(i)); }); });
  if (!args.dbias.defined()) return;
  float* db = args.dbias.f32();
  by_columns(T, C, [=](int64_t i, int64_t c) { db[c] += slope(i); });
}

void key_scale(const Stream&, const KeyScaleArgs& args) {
  const F32In k_a(args.k_a);
  const float *key = args.key.f32(), *rate = args.rate.f32(), *w = k_a.data();
  float* y = args.y.f32();
  by_rows(args.key.dim(0), args.k_a.numel(),
          [=](int64_t i, int64_t c) { y[i] = key[i] * (1 + (rate[i] - 1) * w[c]); });
}

void key_scale_backward(const Stream&, const KeyScaleBackwardArgs& args) {
  const F32In k_a(args.k_a);
  const float *key = args.key.f32(), *rate = args.rate.f32(), *w = k_a.data(), *dy = args.dy.f32();
  const int64_t T = args.dy.dim(0), C = args.k_a.numel();
  if (args.dkey.defined())
    add_to(args.dkey, [=](auto sum) {
      by_rows(T, C, [=](int64_t i, int64_t c) { sum(i, dy[i] * (1 + (rate[i] - 1) * w[c])); });
    });
  if (args.drate.defined())
    add_to(args.drate,
           [=](auto sum) { by_rows(T, C, [=](int64_t i, int64_t c) { sum(i, dy[i] * key[i] * w[c]); }); });
  if (!args.dk_a.defined()) return;
  float* dw = args.dk_a.f32();
  by_columns(T, C, [=](int64_t i, int64_t c) { dw[c] += dy[i] * key[i] * (rate[i] - 1); });
}

void token_shift(const Stream&, const TokenShiftArgs& args) {
  const F32In mu(args.mu);
  const float *x = args.x.f32(), *w = mu.data();
  float* y = args.y.f32();
  const int64_t C = args.mu.numel();
  const int32_t* document_boundaries = args.document_boundaries.data<int32_t>();
  parallel_for(args.x.dim(0), kRows, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float *now = x + t * C, *before = document_boundaries[t] & kDocumentBegins ? nullptr : now - C;
#pragma omp simd
      for (int64_t c = 0; c < C; ++c) y[t * C + c] = now[c] + ((before ? before[c] : 0.0f) - now[c]) * w[c];
    }
  });
}

void token_shift_backward(const Stream&, const TokenShiftBackwardArgs& args) {
  const F32In mu(args.mu);
  const float *x = args.x.f32(), *w = mu.data(), *dy = args.dy.f32();
  const int64_t T = args.x.dim(0), C = args.mu.numel();
  const int32_t* document_boundaries = args.document_boundaries.data<int32_t>();
  if (args.dx.defined())
    add_to(args.dx, [=](auto sum) {
      parallel_for(T, kRows, [=](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
          const float *now = dy + t * C, *after = document_boundaries[t] & kDocumentEnds ? nullptr : now + C;
#pragma omp simd
          for (int64_t c = 0; c < C; ++c)
            sum(t * C + c, now[c] * (1 - w[c]) + (after ? after[c] * w[c] : 0.0f));
        }
      });
    });
  if (!args.dmu.defined()) return;
  float* dmu = args.dmu.f32();
  parallel_for(C, kColumns, [=](int64_t begin, int64_t end) {
    for (int64_t t = 0; t < T; ++t) {
      const float *xt = x + t * C, *dyt = dy + t * C,
                  *before = document_boundaries[t] & kDocumentBegins ? nullptr : xt - C;
#pragma omp simd
      for (int64_t c = begin; c < end; ++c) dmu[c] += dyt[c] * ((before ? before[c] : 0.0f) - xt[c]);
    }
  });
}

void scale_channels(const Stream&, const ScaleChannelsArgs& args) {
  const F32In weight(args.w);
  const float *x = args.x.f32(), *w = weight.data(), factor = args.factor;
  float* y = args.y.f32();
  by_rows(args.x.dim(0), args.w.numel(), [=](int64_t i, int64_t c) { y[i] = factor * w[c] * x[i]; });
}

void scale_channels_backward(const Stream&, const ScaleChannelsBackwardArgs& args) {
  const F32In weight(args.w);
  const float *x = args.x.f32(), *w = weight.data(), *dy = args.dy.f32(), factor = args.factor;
  const int64_t T = args.dy.dim(0), C = args.w.numel();
  if (args.dx.defined()) {
    float* dx = args.dx.begun().f32();
    by_rows(T, C, [=](int64_t i, int64_t c) { dx[i] += factor * w[c] * dy[i]; });
  }
  if (!args.dw.defined()) return;
  float* dw = args.dw.f32();
  by_columns(T, C, [=](int64_t i, int64_t c) { dw[c] += factor * x[i] * dy[i]; });
}

void scale_heads(const Stream&, const ScaleHeadsArgs& args) {
  const F32In scales(args.s);
  const int64_t T = args.x.dim(0), H = args.x.dim(1), D = args.x.dim(2);
  parallel_for(T, kRows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin * H; row < end * H; ++row) {
      const float *x = args.x.f32() + row * D, s = scales.data()[row % H];
      const float* base = args.base.defined() ? args.base.f32() + row * D : nullptr;
      float* y = args.y.f32() + row * D;
#pragma omp simd
      for (int64_t c = 0; c < D; ++c) y[c] = (base ? base[c] : 0.0f) + s * x[c];
    }
  });
}

void scale_heads_backward(const Stream&, const ScaleHeadsBackwardArgs& args) {
  const F32In scales(args.s);
  const int64_t T = args.x.dim(0), H = args.x.dim(1), D = args.x.dim(2);
  if (args.dx.defined())
    add_to(args.dx, [&](auto sum) {
      parallel_for(T, kRows, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin * H; row < end * H; ++row) {
          const float *dy = args.dy.f32(), s = scales.data()[row % H];
#pragma omp simd
          for (int64_t i = row * D; i < (row + 1) * D; ++i) sum(i, s * dy[i]);
        }
      });
    });
  if (!args.ds.defined()) return;
  float* ds = args.ds.f32();
  parallel_for(H, 1, [&](int64_t begin, int64_t end) {
    for (int64_t h = begin; h < end; ++h) {
      double total = 0;  // over all rows and channels: f32 would lose small terms
      for (int64_t t = 0; t < T; ++t) {
        const float *x = args.x.f32() + (t * H + h) * D, *dy = args.dy.f32() + (t * H + h) * D;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < D; ++c) sum += x[c] * dy[c];
        total += sum;
      }
      ds[h] += static_cast<float>(total);
    }
  });
}

}  // namespace wuneng::kernels::cpu
