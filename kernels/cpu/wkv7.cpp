// The forward side of WKV-7: the recurrence by chunks, and its two readings.
#include "kernels/wkv7.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/simd.h"
#include "kernels/cpu/wkv7_chunk.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

// f(segment, state head, first chunk) for all chains, split over threads.
template <class F>
void for_chains(const Wkv7Inputs& in, const F& f) {
  const int64_t N = in.k.dim(1), chains = static_cast<int64_t>(in.segments.size()) * N;
  const std::vector<int64_t> first = first_chunks(in.segments);
  parallel_for(chains, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i / N, i % N, first[i / N]);
  });
}

}  // namespace

void wkv7_states(const Stream&, const Wkv7StatesArgs& args) {
  const int64_t N = args.in.k.dim(1), D = args.in.k.dim(2), square = D * D;
  for_chains(args.in, [&](int64_t s, int64_t n, int64_t chunk) {
    const Wkv7Segment& segment = args.in.segments[s];
    Wkv7Chunk c(D);
    std::vector<float> state(square, 0.0f), ak(kC * kC), ab(kC * kC);
    if (args.initial.defined()) std::memcpy(state.data(), args.initial.f32() + (s * N + n) * square, square * sizeof(float));
    for (int64_t at = 0; at < segment.count; at += kC, ++chunk) {
      c.load(args.in, segment.begin + at, std::min(kC, segment.count - at), n);
      std::memcpy(args.chunk_states.f32() + (chunk * N + n) * square, state.data(), square * sizeof(float));
      // U_t = S_0 A_t + sum_{j<t} (A_t K_j) V_j + (A_t B_j) U_j, row by row: a forward substitution.
      sgemm(false, true, c.C, D, D, 1, c.A.data(), D, state.data(), D, 0, c.U.data(), D);
      sgemm(false, true, c.C, c.C, D, 1, c.A.data(), D, c.K.data(), D, 0, ak.data(), kC);
      sgemm(false, true, c.C, c.C, D, 1, c.A.data(), D, c.B.data(), D, 0, ab.data(), kC);
      for (int64_t t = 0; t < c.C; ++t) {
        float* u = c.U.data() + t * D;
        for (int64_t j = 0; j < t; ++j) {
          const float p = ak[t * kC + j], q = ab[t * kC + j], *v = c.V.data() + j * D, *uj = c.U.data() + j * D;
#pragma omp simd
          for (int64_t i = 0; i < D; ++i) u[i] += p * v[i] + q * uj[i];
        }
      }
      c.store_rows(c.U.data(), args.removed, n);
      // S_C = (S_0 + sum V_j K_j^T + U_j B_j^T) diag(e^G)
      sgemm(true, false, D, D, c.C, 1, c.V.data(), D, c.K.data(), D, 1, state.data(), D);
      sgemm(true, false, D, D, c.C, 1, c.U.data(), D, c.B.data(), D, 1, state.data(), D);
      for (int64_t i = 0; i < D; ++i) {
        float* row = state.data() + i * D;
        const float* total = c.total();
#pragma omp simd
        for (int64_t k = 0; k < D; ++k) row[k] *= total[k];
      }
    }
    if (args.final.defined()) std::memcpy(args.final.f32() + (s * N + n) * square, state.data(), square * sizeof(float));
  });
}

void wkv7_read(const Stream&, const Wkv7ReadArgs& args) {
  const int64_t N = args.in.k.dim(1), D = args.in.k.dim(2);
  const auto readers = readers_of(args.head_state, N);
  for_chains(args.in, [&](int64_t s, int64_t n, int64_t chunk) {
    const Wkv7Segment& segment = args.in.segments[s];
    Wkv7Chunk c(D);
    std::vector<float> Q(kC * D), y(kC * D), qk(kC * kC), qb(kC * kC);
    for (int64_t at = 0; at < segment.count; at += kC, ++chunk) {
      c.load(args.in, segment.begin + at, std::min(kC, segment.count - at), n);
      c.load_removed(args.removed);
      const float* state = args.chunk_states.f32() + (chunk * N + n) * D * D;
      for (int h = readers[n][0]; h < readers[n][1]; ++h) {
        c.load_reader(args.r, h, Q.data());
        sgemm(false, true, c.C, D, D, 1, Q.data(), D, state, D, 0, y.data(), D);
        sgemm(false, true, c.C, c.C, D, 1, Q.data(), D, c.K.data(), D, 0, qk.data(), kC);
        sgemm(false, true, c.C, c.C, D, 1, Q.data(), D, c.B.data(), D, 0, qb.data(), kC);
        for (int64_t t = 0; t < c.C; ++t)
          for (int64_t j = 0; j <= t; ++j) {
            axpy(qk[t * kC + j], c.V.data() + j * D, y.data() + t * D, D);
            axpy(qb[t * kC + j], c.U.data() + j * D, y.data() + t * D, D);
          }
        c.store_rows(y.data(), args.y, h);
      }
    }
  });
}

void wkv7_read_transposed(const Stream&, const Wkv7ReadArgs& args) {
  const int64_t N = args.in.k.dim(1), D = args.in.k.dim(2);
  const auto readers = readers_of(args.head_state, N);
  for_chains(args.in, [&](int64_t s, int64_t n, int64_t chunk) {
    const Wkv7Segment& segment = args.in.segments[s];
    Wkv7Chunk c(D);
    std::vector<float> u(kC * D), z(kC * D), uv(kC * kC), uu(kC * kC);
    for (int64_t at = 0; at < segment.count; at += kC, ++chunk) {
      c.load(args.in, segment.begin + at, std::min(kC, segment.count - at), n);
      c.load_removed(args.removed);
      const float* state = args.chunk_states.f32() + (chunk * N + n) * D * D;
      for (int h = readers[n][0]; h < readers[n][1]; ++h) {
        c.load_rows(args.r, h, u.data());
        sgemm(false, false, c.C, D, D, 1, u.data(), D, state, D, 0, z.data(), D);
        sgemm(false, true, c.C, c.C, D, 1, u.data(), D, c.V.data(), D, 0, uv.data(), kC);
        sgemm(false, true, c.C, c.C, D, 1, u.data(), D, c.U.data(), D, 0, uu.data(), kC);
        for (int64_t t = 0; t < c.C; ++t) {
          float* zt = z.data() + t * D;
          for (int64_t j = 0; j <= t; ++j) {
            axpy(uv[t * kC + j], c.K.data() + j * D, zt, D);
            axpy(uu[t * kC + j], c.B.data() + j * D, zt, D);
          }
          const float* grow = c.grow.data() + t * D;
#pragma omp simd
          for (int64_t i = 0; i < D; ++i) zt[i] *= grow[i];
        }
        c.store_rows(z.data(), args.y, h);
      }
    }
  });
}

void wkv7_recurrent(const Stream&, const Wkv7RecurrentArgs& args) {
  const int64_t N = args.in.k.dim(1), D = args.in.k.dim(2), R = args.r.dim(1);
  const auto readers = readers_of(args.head_state, N);
  for_chains(args.in, [&](int64_t s, int64_t n, int64_t) {
    const Wkv7Segment& segment = args.in.segments[s];
    std::vector<float> state(D * D, 0.0f), w(D), b(D);
    for (int64_t t = segment.begin; t < segment.begin + segment.count; ++t) {
      const int64_t from = (t * N + n) * D;
      const float *log_w = args.in.log_w.f32() + from, *k = args.in.k.f32() + from, *v = args.in.v.f32() + from;
      const float *kappa = args.in.kappa.f32() + from, *rate = args.in.rate.f32() + from;
#pragma omp simd
      for (int64_t c = 0; c < D; ++c) w[c] = exp_fast(log_w[c]), b[c] = kappa[c] * rate[c];
      for (int64_t i = 0; i < D; ++i) {
        float *row = state.data() + i * D, removed = -dot(row, kappa, D), value = v[i];
#pragma omp simd
        for (int64_t c = 0; c < D; ++c) row[c] = row[c] * w[c] + removed * b[c] + value * k[c];
      }
      for (int h = readers[n][0]; h < readers[n][1]; ++h)
        for (int64_t i = 0; i < D; ++i) args.y.f32()[(t * R + h) * D + i] = dot(state.data() + i * D, args.r.f32() + (t * R + h) * D, D);
    }
  });
}

}  // namespace wuneng::kernels::cpu
