// The backward by chunks, last chunk first (formulas in kernels/cpu/wkv7_backward.cpp): a block a chain, the
// gradient of the state in shared memory.
#include "kernels/cuda/wkv7_chunk.h"

namespace wuneng::kernels::cuda {
namespace {

using wuneng::cuda::optional;

struct Reading {
  Floats dy, r;  // [T, R, D]
};
struct Gradients {
  Floats dlog_w, dk, dv, dkappa, drate;  // [T, N, D]
  float* dinitial;
};

struct Backward {
  Inputs in;
  Chunk c;
  float* dS;      // [D, P]
  float* dVU;     // [32, P]: dV over dU
  float* dKB;     // [32, P]: dk over db
  float* dP;      // [16, P]
  float* da;      // [16, P]
  float* dlog_w;  // [16, P]
  float *dY, *Q;  // [16, P], of one reader
  float* met;     // [16, P]
  float *pairs, *dpairs, *solve;
  static constexpr int kRows = 4 * kC + 6 * kC;  // without Chunk's and dS

  __device__ void place(float* memory) {
    float* at = c.place(memory, in.D);
    const int P = c.P;
    const auto take = [&](int rows) {
      float* const mine = at;
      at += rows * P;
      return mine;
    };
    dS = take(in.D), dVU = take(2 * kC), dKB = take(2 * kC), dP = take(kC), da = take(kC), dlog_w = take(kC);
    dY = take(kC), Q = take(kC), met = take(kC);
    pairs = at, dpairs = pairs + kC * 2 * kC, solve = dpairs + kC * 2 * kC;
  }

  // See decay_share in the CPU's twin: a thread a channel.
  template <bool kOwn>
  __device__ void decay_share(const float* X, float* meets) {
    const int P = c.P;
    for (int k = threadIdx.x; k < in.D; k += kThreads) {
      float m[kC];
      for (int i = 0; i < kC; ++i) m[i] = meets[i * P + k];
      for (int t = 0; t < kC; ++t) {
        const float K = c.KB[t * P + k], B = c.KB[(kC + t) * P + k];
        float sum = 0;
        for (int i = t; i < kC; ++i) {
          if (kOwn || i > t) sum += X[i * P + k] * m[i];
          if (i > t) m[i] += dpairs[i * 2 * kC + t] * K + dpairs[i * 2 * kC + kC + t] * B;
        }
        dlog_w[t * P + k] += sum;
      }
      if (!kOwn)
        for (int i = 0; i < kC; ++i) meets[i * P + k] = m[i];
    }
    __syncthreads();
  }

  __device__ void through_state(const float* state) {
    const int D = in.D, P = c.P;
    for (int k = threadIdx.x; k < D; k += kThreads) {
      float sum = 0;
      for (int i = 0; i < D; ++i) {
        const float E = c.total()[k] * dS[i * P + k];
        dS[i * P + k] = E;
        sum += E * state[i * D + k];
      }
      met[k] = sum;  // what the decays share, before the first row
    }
    __syncthreads();
    multiply(2 * kC, D, D, rows_of(c.KB, P), columns_of(dS, P), dVU, P);
    multiply(2 * kC, D, D, rows_of(c.VU, P), rows_of(dS, P), dKB, P);
    for (int k = threadIdx.x; k < D; k += kThreads) {
      float base = met[k];
      for (int t = 0; t < kC; ++t) {
        dlog_w[t * P + k] = base;
        base += c.KB[t * P + k] * dKB[t * P + k] + c.KB[(kC + t) * P + k] * dKB[(kC + t) * P + k];
      }
    }
    __syncthreads();
  }

  __device__ void through_reading(const Reading& reading, int64_t R, int64_t h, const float* state) {
    const int D = in.D, P = c.P;
    c.load_rows(reading.dy, R, h, dY);
    c.load_rows(reading.r, R, h, Q, true);
    multiply(kC, 2 * kC, D, rows_of(Q, P), columns_of(c.KB, P), pairs, 2 * kC);
    keep_causal(pairs, false);
    multiply<true>(2 * kC, D, kC, columns_of(pairs, 2 * kC), rows_of(dY, P), dVU, P);
    multiply(kC, 2 * kC, D, rows_of(dY, P), columns_of(c.VU, P), dpairs, 2 * kC);
    keep_causal(dpairs, false);
    multiply<true>(2 * kC, D, kC, columns_of(dpairs, 2 * kC), rows_of(Q, P), dKB, P);
    multiply(kC, D, D, rows_of(dY, P), rows_of(state, D), met, P);
    decay_share<true>(Q, met);
    multiply<true>(D, D, kC, columns_of(dY, P), rows_of(Q, P), dS, P);
  }

  __device__ void through_removal(const float* state) {
    const int D = in.D, P = c.P;
    multiply(kC, 2 * kC, D, rows_of(c.A, P), columns_of(c.KB, P), pairs, 2 * kC);
    keep_causal(pairs, true);
    unit_inverse(pairs + kC, 2 * kC, solve);
    multiply(kC, D, kC, columns_of(solve, kC), rows_of(dVU + kC * P, P), dP, P);
    multiply<true>(kC, D, kC, columns_of(pairs, 2 * kC), rows_of(dP, P), dVU, P);
    multiply(kC, 2 * kC, D, rows_of(dP, P), columns_of(c.VU, P), dpairs, 2 * kC);
    keep_causal(dpairs, true);
    multiply<true>(2 * kC, D, kC, columns_of(dpairs, 2 * kC), rows_of(c.A, P), dKB, P);
    multiply(kC, D, D, rows_of(dP, P), rows_of(state, D), da, P);
    decay_share<false>(c.A, da);
    multiply<true>(D, D, kC, columns_of(dP, P), rows_of(c.A, P), dS, P);
  }

  __device__ void finish(const Gradients& out, int64_t n) {
    const int D = in.D, P = c.P;
    for (int e = threadIdx.x; e < c.C * D; e += kThreads) {
      const int t = e / D, k = e % D;
      const int64_t at = ((c.row + t) * in.N + n) * D + k;
      const float down = 1.0f / c.grow[(t + 1) * P + k], db = dKB[(kC + t) * P + k];
      out.dk.set(at, dKB[t * P + k] * down);
      out.dkappa.set(at, in.rate[at] * db * down - da[t * P + k] * c.grow[t * P + k]);
      out.drate.set(at, in.kappa[at] * db * down);
    }
    c.store_rows(dVU, out.dv, in.N, n);
    c.store_rows(dlog_w, out.dlog_w, in.N, n);
  }
};

// Grid (segment, state head).
__global__ void __launch_bounds__(kThreads)
    backward_kernel(Inputs in, const int64_t* segments, const int32_t* readers, int64_t R, Reading first,
                    Reading second, const float* chunk_states, Floats removed, const float* dfinal,
                    Gradients out) {
  Backward b;
  b.in = in;
  b.place(wuneng::cuda::shared_memory<float>());
  const int64_t n = blockIdx.y, square = int64_t{in.D} * in.D, chain = blockIdx.x * in.N + n;
  const int64_t begin = segments[3 * blockIdx.x], count = segments[3 * blockIdx.x + 1],
                first_chunk = segments[3 * blockIdx.x + 2];
  load_state(dfinal ? dfinal + chain * square : nullptr, in.D, b.dS);
  for (int64_t at = (count - 1) / kC * kC; at >= 0; at -= kC) {
    b.c.load(in, begin + at, static_cast<int>(min(int64_t{kC}, count - at)), n);
    b.c.load_rows(removed, in.N, n, b.c.U());
    const float* state = chunk_states + ((first_chunk + at / kC) * in.N + n) * square;
    b.through_state(state);
    for (const Reading* reading : {&first, &second})
      if (reading->dy)
        for (int32_t h = readers[2 * n]; h < readers[2 * n + 1]; ++h)
          b.through_reading(*reading, R, h, state);
    b.through_removal(state);
    b.finish(out, n);
  }
  store_state(b.dS, in.D, out.dinitial ? out.dinitial + chain * square : nullptr);
}

}  // namespace

void wkv7_backward(const Stream& stream, const Wkv7BackwardArgs& args) {
  WUNENG_ASSERT(args.readings.size() <= 2);
  const Inputs in = inputs_of(args.in);
  const Device device = args.in.k.device();
  const Tensor segments = segment_table(args.in.segments, device),
               readers = reader_table(args.head_state, in.N, device);
  Reading readings[2] = {};
  int64_t R = 0;
  for (size_t i = 0; i < args.readings.size(); ++i) {
    readings[i] = {floats(args.readings[i].dy), floats(args.readings[i].r)};
    R = args.readings[i].r.dim(1);
  }
  const Gradients out{floats(args.dlog_w), floats(args.dk),    floats(args.dv),
                      floats(args.dkappa), floats(args.drate), optional(args.dinitial)};
  const size_t P = pitch_of(in.D),
               count = (Chunk::kRows + in.D + Backward::kRows) * P + 2 * kC * 2 * kC + kC * kC;
  wuneng::cuda::launch(stream, "wkv7_backward", backward_kernel, dim3(args.in.segments.size(), in.N),
                       dim3(kThreads), count * sizeof(float), in, segments.data<int64_t>(),
                       readers.data<int32_t>(), R, readings[0], readings[1], args.chunk_states.f32(),
                       floats(args.removed), optional(args.dfinal), out);
}

}  // namespace wuneng::kernels::cuda
