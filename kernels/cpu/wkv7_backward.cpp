// The backward of WKV-7 by chunks, last chunk first (docs/model.md; notation of wkv7_chunk.h). dS is the gradient of the state after the chunk, E = dS diag(e^G).
//
//   dU = sum over readings A_qb^T dY + B E^T      dP = (I - A_ab)^-T dU      dV = A_qk^T dY + A_ak^T dP + K E^T
//   d(-kappa) = e^{g_{t-1}} o (dA_ab B + dA_ak K + dP S_0)
//   db = e^{-g} o (dA_ab^T A + dA_qb^T Q + U E)   dk likewise with V   dS_0 = E + dY^T Q + dP^T A
//
// The decay's gradient is w_t sum_v dS_t o S_{t-1}, written out so that nothing is subtracted (the usual difference of suffix sums loses
// half the digits in f32): the row t stands between what was written before it (S_0, rows j < t) and what is read after it (E, readings
// i >= t, removals i > t):
//   dlog_w_t = sum_v (E + sum_{i>=t} dY_i Q_i^T + sum_{i>t} dP_i A_i^T) o (S_0 + sum_{j<t} V_j K_j^T + U_j B_j^T).
#include <algorithm>
#include <cstring>

#include "kernels/cpu/wkv7_chunk.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

class Backward {
 public:
  Backward(const Wkv7BackwardArgs& args, int64_t s, int64_t n, int first_reader, int last_reader)
      : args_(args), D(args.in.k.dim(2)), N(args.in.k.dim(1)), s_(s), n_(n), first_(first_reader), last_(last_reader), c(D), dS(D * D, 0.0f),
        dU(kC * D), dV(kC * D), da(kC * D), db(kC * D), dk(kC * D), dw(kC * D), dY(kC * D), Q(kC * D), rows(kC * D), base(D),
        left(kC * kC), right(kC * kC) {
    if (args.dfinal.defined()) std::memcpy(dS.data(), args.dfinal.f32() + (s * N + n) * D * D, D * D * sizeof(float));
  }

  void chunk(int64_t row, int64_t count, const float* state) {
    c.load(args_.in, row, count, n_);
    c.load_removed(args_.removed);
    to_start();
    through_state(state);
    for (const auto& reading : args_.readings)
      for (int h = first_; h < last_; ++h) through_reading(reading, h, state);
    through_removal(state);
    finish();
  }

  void store_initial() const {
    if (args_.dinitial.defined()) std::memcpy(args_.dinitial.f32() + (s_ * N + n_) * D * D, dS.data(), D * D * sizeof(float));
  }

 private:
  // dS becomes E.
  void to_start() {
    for (int64_t i = 0; i < D; ++i) {
      float* row = dS.data() + i * D;
      const float* total = c.total();
#pragma omp simd
      for (int64_t k = 0; k < D; ++k) row[k] *= total[k];
    }
  }

  // What reaches the chunk through the state after it: dU = B E^T, dV = K E^T, db = U E, dk = V E, and the decays' share.
  void through_state(const float* state) {
    const int64_t C = c.C;
    sgemm(false, true, C, D, D, 1, c.B.data(), D, dS.data(), D, 0, dU.data(), D);
    sgemm(false, true, C, D, D, 1, c.K.data(), D, dS.data(), D, 0, dV.data(), D);
    sgemm(false, false, C, D, D, 1, c.U.data(), D, dS.data(), D, 0, db.data(), D);
    sgemm(false, false, C, D, D, 1, c.V.data(), D, dS.data(), D, 0, dk.data(), D);
    std::fill(base.begin(), base.end(), 0.0f);
    for (int64_t i = 0; i < D; ++i) multiply_add(dS.data() + i * D, state + i * D, base.data(), D);
    for (int64_t t = 0; t < C; ++t) {
      std::memcpy(dw.data() + t * D, base.data(), D * sizeof(float));
      multiply_add(c.K.data() + t * D, dk.data() + t * D, base.data(), D);
      multiply_add(c.B.data() + t * D, db.data() + t * D, base.data(), D);
    }
  }

  // left[t, j] = x_t . V_j and right[t, j] = x_t . U_j
  void against_values(const float* x) {
    sgemm(false, true, c.C, c.C, D, 1, x, D, c.V.data(), D, 0, left.data(), kC);
    sgemm(false, true, c.C, c.C, D, 1, x, D, c.U.data(), D, 0, right.data(), kC);
  }

  // The decays' share of vectors X_i that read the state with gradients dX_i: rows holds dX S_0, left and right its products with values. `own`: does row i
  // read what row i itself has written? Leaves sum_{j<i (or <=i)} of the writes in rows, added to dX_i S_0.
  void decay_share(const float* X, bool own) {
    std::vector<float>& written = base;
    for (int64_t i = 0; i < c.C; ++i) {
      const float* x = X + i * D;
      float* row = rows.data() + i * D;
      std::memcpy(written.data(), row, D * sizeof(float));
      for (int64_t t = 0; t < i + own; ++t) {
        multiply_add(x, written.data(), dw.data() + t * D, D);
        const float p = left[i * kC + t], q = right[i * kC + t], *K = c.K.data() + t * D, *B = c.B.data() + t * D;
        float* w = written.data();
#pragma omp simd
        for (int64_t k = 0; k < D; ++k) w[k] += p * K[k] + q * B[k];
      }
      std::memcpy(row, written.data(), D * sizeof(float));
    }
  }

  void through_reading(const Wkv7BackwardArgs::Pair& reading, int h, const float* state) {
    const int64_t C = c.C;
    c.load_rows(reading.dy, h, dY.data());
    c.load_reader(reading.r, h, Q.data());
    // dU += A_qb^T dY, dV += A_qk^T dY over j <= t
    sgemm(false, true, C, C, D, 1, Q.data(), D, c.B.data(), D, 0, right.data(), kC);
    sgemm(false, true, C, C, D, 1, Q.data(), D, c.K.data(), D, 0, left.data(), kC);
    for (int64_t t = 0; t < C; ++t)
      for (int64_t j = 0; j <= t; ++j) {
        axpy(right[t * kC + j], dY.data() + t * D, dU.data() + j * D, D);
        axpy(left[t * kC + j], dY.data() + t * D, dV.data() + j * D, D);
      }
    // db += dA_qb^T Q, dk += dA_qk^T Q
    against_values(dY.data());
    for (int64_t t = 0; t < C; ++t)
      for (int64_t j = 0; j <= t; ++j) {
        axpy(right[t * kC + j], Q.data() + t * D, db.data() + j * D, D);
        axpy(left[t * kC + j], Q.data() + t * D, dk.data() + j * D, D);
      }
    sgemm(false, false, C, D, D, 1, dY.data(), D, state, D, 0, rows.data(), D);
    decay_share(Q.data(), true);
    sgemm(true, false, D, D, C, 1, dY.data(), D, Q.data(), D, 1, dS.data(), D);
  }

  // The removals U = (I - A_ab)^-1 P: dP by back substitution (dU becomes dP), then what A_ab, A_ak and S_0 get.
  void through_removal(const float* state) {
    const int64_t C = c.C;
    sgemm(false, true, C, C, D, 1, c.A.data(), D, c.B.data(), D, 0, right.data(), kC);
    sgemm(false, true, C, C, D, 1, c.A.data(), D, c.K.data(), D, 0, left.data(), kC);
    for (int64_t t = C - 1; t >= 0; --t)
      for (int64_t j = 0; j < t; ++j) {
        axpy(right[t * kC + j], dU.data() + t * D, dU.data() + j * D, D);
        axpy(left[t * kC + j], dU.data() + t * D, dV.data() + j * D, D);
      }
    against_values(dU.data());
    for (int64_t t = 0; t < C; ++t)
      for (int64_t j = 0; j < t; ++j) {
        axpy(right[t * kC + j], c.A.data() + t * D, db.data() + j * D, D);
        axpy(left[t * kC + j], c.A.data() + t * D, dk.data() + j * D, D);
      }
    sgemm(false, false, C, D, D, 1, dU.data(), D, state, D, 0, rows.data(), D);
    decay_share(c.A.data(), false);
    std::swap(rows, da);
    sgemm(true, false, D, D, C, 1, dU.data(), D, c.A.data(), D, 1, dS.data(), D);
  }

  // Out of the decayed coordinates and into the results.
  void finish() {
    const int64_t stride = N * D;
    for (int64_t t = 0; t < c.C; ++t) {
      const int64_t at = (c.row + t) * stride + n_ * D;
      const float *kappa = args_.in.kappa.f32() + at, *rate = args_.in.rate.f32() + at;
      const float *shrink = c.shrink.data() + t * D, *before = t ? c.grow.data() + (t - 1) * D : nullptr;
      float *out_k = args_.dk.f32() + at, *out_kappa = args_.dkappa.f32() + at, *out_rate = args_.drate.f32() + at;
      const float *a = da.data() + t * D, *b = db.data() + t * D, *k = dk.data() + t * D;
#pragma omp simd
      for (int64_t i = 0; i < D; ++i) {
        const float bi = b[i] * shrink[i], ai = a[i] * (before ? before[i] : 1.0f);
        out_k[i] = k[i] * shrink[i];
        out_kappa[i] = rate[i] * bi - ai;
        out_rate[i] = kappa[i] * bi;
      }
    }
    c.store_rows(dV.data(), args_.dv, n_);
    c.store_rows(dw.data(), args_.dlog_w, n_);
  }

  const Wkv7BackwardArgs& args_;
  const int64_t D, N, s_, n_;
  const int first_, last_;
  Wkv7Chunk c;
  std::vector<float> dS, dU, dV, da, db, dk, dw, dY, Q, rows, base, left, right;
};

}  // namespace

void wkv7_backward(const Stream&, const Wkv7BackwardArgs& args) {
  const int64_t N = args.in.k.dim(1), D = args.in.k.dim(2), chains = static_cast<int64_t>(args.in.segments.size()) * N;
  const auto first = first_chunks(args.in.segments);
  const auto readers = readers_of(args.head_state, N);
  parallel_for(chains, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t s = i / N, n = i % N;
      const Wkv7Segment& segment = args.in.segments[s];
      Backward chain(args, s, n, readers[n][0], readers[n][1]);
      for (int64_t chunk = (segment.count - 1) / kC; chunk >= 0; --chunk)
        chain.chunk(segment.begin + chunk * kC, std::min(kC, segment.count - chunk * kC), args.chunk_states.f32() + ((first[s] + chunk) * N + n) * D * D);
      chain.store_initial();
    }
  });
}

}  // namespace wuneng::kernels::cpu
