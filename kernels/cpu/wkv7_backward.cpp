// The backward of WKV-7 by chunks, last chunk first (notation of wkv7_chunk.h). dS is the gradient of the
// state after the chunk, E = dS diag(e^G).
//
//   dU = sum over readings A_qb^T dY + B E^T      dP = (I - A_ab)^-T dU      dV = A_qk^T dY + A_ak^T dP + K
//   E^T d(-kappa) = e^{g_{t-1}} o (dA_ab B + dA_ak K + dP S_0) db = e^{-g} o (dA_ab^T A + dA_qb^T Q + U E) dk
//   likewise with V   dS_0 = E + dY^T Q + dP^T A
//
// The decay's gradient is w_t sum_v dS_t o S_{t-1}, written out so that nothing is subtracted (the usual
// difference of suffix sums cancels in f32): the row t stands between what was written before it (S_0, rows j
// < t) and what is read after it (E, readings i >= t, removals i > t):
//   dlog_w_t = sum_v (E + sum_{i>=t} dY_i Q_i^T + sum_{i>t} dP_i A_i^T) o (S_0 + sum_{j<t} V_j K_j^T + U_j
//   B_j^T).
#include <algorithm>

#include "kernels/cpu/wkv7_chunk.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

// The decays' share of rows X_i that read the state: dlog_w [16, W] += X_i o (what X_i's gradient meets of
// the writes before t), for all t up to i (kOwn: row i reads after its own write and decay) or before i.
// meets [16, W] holds dX_i S_0, pairs [16, 32] the products of dX_i with V_j and U_j; meets is left as dX_i
// S_0 + sum of them times K_j and B_j for all j < i (kOwn: j <= i), which is X_i's gradient.
template <bool kOwn>
[[gnu::noinline]] void decay_share(int64_t W, const float* X, const float* pairs, const float* KB,
                                   float* meets, float* dlog_w) {
  for (int64_t c = 0; c < W; c += kLanes) {
    Lanes met[kC];
    unroll<kC>([&](auto i) __attribute__((always_inline)) { met[i] = load(meets + i * W + c); });
    unroll<kC>([&](auto t) __attribute__((always_inline)) {
      const Lanes K = load(KB + t * W + c), B = load(KB + (kC + t) * W + c);
      Lanes sum[2] = {load(dlog_w + t * W + c), Lanes{}};  // two, for the additions wait for each other
      unroll<kC>([&](auto i) __attribute__((always_inline)) {
        if constexpr (kOwn ? i >= t : i > t) sum[i % 2] += load(X + i * W + c) * met[i];
        if constexpr (kOwn ? i >= t : i > t)
          met[i] += pairs[i * 2 * kC + t] * K + pairs[i * 2 * kC + kC + t] * B;
      });
      store(dlog_w + t * W + c, sum[0] + sum[1]);
    });
    unroll<kC>([&](auto i) __attribute__((always_inline)) { store(meets + i * W + c, met[i]); });
  }
}

class Backward {
 public:
  explicit Backward(const Wkv7BackwardArgs& args)
      : args_(args),
        N_(args.in.k.dim(1)),
        c_(args.in.k.dim(2)),
        dS_(W() * W()),
        wide_(W() * W()),
        KBt_(W() * 2 * kC),
        VUt_(W() * 2 * kC),
        dVUt_(W() * 2 * kC),
        dKB_(2 * kC * W()),
        dPt_(W() * kC),
        da_(kC * W()),
        dlog_w_(kC * W()),
        dY_(kC * W()),
        Q_(kC * W()),
        met_(kC * W()),
        base_(W()),
        pairs_(kC * 2 * kC),
        dpairs_(kC * 2 * kC),
        solve_(kC * kC) {}

  // The readers of the chain's head are [first, last).
  void run(const Wkv7Chain& chain, int first, int last) {
    load_state(args_.dfinal, chain.segment * N_ + chain.head, W(), dS_.data());
    for (int64_t at = (chain.count - 1) / kC * kC; at >= 0; at -= kC) {
      c_.load(args_.in, chain.begin + at, std::min(kC, chain.count - at), chain.head);
      c_.load_removed(args_.removed, chain.head);
      transpose(2 * kC, W(), c_.KB.data(), W(), KBt_.data(), 2 * kC);
      transpose(2 * kC, W(), c_.VU.data(), W(), VUt_.data(), 2 * kC);
      if (at > 0) prefetch(chain, at - kC, first, last);
      const float* state =
          wide_state(args_.chunk_states, (chain.first_chunk + at / kC) * N_ + chain.head, W(), wide_);
      through_state(state);
      for (const auto& reading : args_.readings)
        for (int h = first; h < last; ++h) through_reading(reading, h, state);
      through_removal(state);
      finish(chain.head);
    }
    store_state(dS_.data(), W(), args_.dinitial, chain.segment * N_ + chain.head);
  }

 private:
  int64_t W() const { return c_.W; }

  // The chunk that comes next: the one that begins at row `at` of the chain.
  void prefetch(const Wkv7Chain& chain, int64_t at, int first, int last) const {
    const int64_t row = chain.begin + at;
    Wkv7Chunk::prefetch(args_.in, row, kC, chain.head);
    Wkv7Chunk::prefetch(args_.removed, row, kC, chain.head);
    prefetch_state(args_.chunk_states, (chain.first_chunk + at / kC) * N_ + chain.head);
    for (const auto& reading : args_.readings)
      for (int h = first; h < last; ++h) {
        Wkv7Chunk::prefetch(reading.dy, row, kC, h);
        Wkv7Chunk::prefetch(reading.r, row, kC, h);
      }
    for (const Tensor* x : {&args_.dlog_w, &args_.dk, &args_.dv, &args_.dkappa, &args_.drate})
      Wkv7Chunk::prefetch(*x, row, kC, chain.head);
  }

  // What reaches the chunk through the state after it: dV = K E^T, dU = B E^T, dk = V E, db = U E, and the
  // decays' share. dS becomes E.
  void through_state(const float* state) {
    for (int64_t k = 0; k < W(); k += kLanes) {
      const Lanes total = load(c_.total() + k);
      Lanes sum{};
      for (int64_t i = 0; i < W(); ++i) {
        const Lanes E = total * load(dS_.data() + i * W() + k);
        store(dS_.data() + i * W() + k, E);
        sum += E * load(state + i * W() + k);
      }
      store(base_.data() + k, sum);
    }
    multiply(W(), 2 * kC, W(), {dS_.data(), W(), 1}, KBt_.data(), 2 * kC, dVUt_.data(), 2 * kC);
    multiply(2 * kC, W(), W(), {c_.VU.data(), W(), 1}, dS_.data(), W(), dKB_.data(), W());
    float* base = base_.data();
    for (int64_t t = 0; t < kC; ++t) {
      const float *K = c_.KB.data() + t * W(), *B = K + kC * W(), *dK = dKB_.data() + t * W(),
                  *dB = dK + kC * W();
      float* dlog_w = dlog_w_.data() + t * W();
#pragma omp simd
      for (int64_t k = 0; k < W(); ++k) {
        dlog_w[k] = base[k];
        base[k] += K[k] * dK[k] + B[k] * dB[k];
      }
    }
  }

  void through_reading(const Wkv7BackwardArgs::Pair& reading, int h, const float* state) {
    c_.load_rows(reading.dy, h, dY_.data());
    c_.load_scaled(reading.r, h, Q_.data());
    const Left dY{dY_.data(), W(), 1}, dYt{dY_.data(), 1, W()};
    // A_qk | A_qb, and what they pass to the values
    multiply(kC, 2 * kC, W(), {Q_.data(), W(), 1}, KBt_.data(), 2 * kC, pairs_.data(), 2 * kC);
    keep_causal(pairs_.data(), false);
    multiply_add(W(), 2 * kC, kC, dYt, pairs_.data(), 2 * kC, dVUt_.data(), 2 * kC);
    // their gradients, and what these pass to the keys
    multiply(kC, 2 * kC, W(), dY, VUt_.data(), 2 * kC, dpairs_.data(), 2 * kC);
    keep_causal(dpairs_.data(), false);
    multiply_add(2 * kC, W(), kC, {dpairs_.data(), 1, 2 * kC}, Q_.data(), W(), dKB_.data(), W());
    multiply(kC, W(), W(), dY, state, W(), met_.data(), W());
    decay_share<true>(W(), Q_.data(), dpairs_.data(), c_.KB.data(), met_.data(), dlog_w_.data());
    if (reading.dr.defined()) c_.store_scaled(met_.data(), reading.dr, h);
    multiply_add(W(), W(), kC, dYt, Q_.data(), W(), dS_.data(), W());
  }

  // The removals U = (I - A_ab)^-1 P, dP from dU, and what A_ab, A_ak and S_0 get.
  void through_removal(const float* state) {
    multiply(kC, 2 * kC, W(), {c_.A.data(), W(), 1}, KBt_.data(), 2 * kC, pairs_.data(), 2 * kC);
    keep_causal(pairs_.data(), true);
    unit_inverse<false>(pairs_.data() + kC, 2 * kC, solve_.data());
    multiply(W(), kC, kC, {dVUt_.data() + kC, 2 * kC, 1}, solve_.data(), kC, dPt_.data(), kC);
    const Left dP{dPt_.data(), 1, kC}, dPt{dPt_.data(), kC, 1};
    multiply_add(W(), kC, kC, dPt, pairs_.data(), 2 * kC, dVUt_.data(), 2 * kC);
    multiply(kC, 2 * kC, W(), dP, VUt_.data(), 2 * kC, dpairs_.data(), 2 * kC);
    keep_causal(dpairs_.data(), true);
    multiply_add(2 * kC, W(), kC, {dpairs_.data(), 1, 2 * kC}, c_.A.data(), W(), dKB_.data(), W());
    multiply(kC, W(), W(), dP, state, W(), da_.data(), W());
    decay_share<false>(W(), c_.A.data(), dpairs_.data(), c_.KB.data(), da_.data(), dlog_w_.data());
    multiply_add(W(), W(), kC, dPt, c_.A.data(), W(), dS_.data(), W());
  }

  // Out of the decayed coordinates and into the results.
  void finish(int64_t n) {
    for (int64_t t = 0; t < c_.C; ++t) {
      const int64_t at = ((c_.row + t) * N_ + n) * c_.D;
      const float *kappa = args_.in.kappa.f32() + at, *rate = args_.in.rate.f32() + at;
      const float *before = c_.scale(t - 1), *down = c_.shrink.data() + t * W();
      const float *da = da_.data() + t * W(), *dk = dKB_.data() + t * W(), *db = dk + kC * W();
      float *out_k = args_.dk.f32() + at, *out_kappa = args_.dkappa.f32() + at,
            *out_rate = args_.drate.f32() + at;
#pragma omp simd
      for (int64_t i = 0; i < c_.D; ++i) {
        out_k[i] = dk[i] * down[i];
        out_kappa[i] = rate[i] * db[i] * down[i] - da[i] * before[i];
        out_rate[i] = kappa[i] * db[i] * down[i];
      }
    }
    transpose(W(), kC, dVUt_.data(), 2 * kC, met_.data(), W());
    c_.store_rows(met_.data(), args_.dv, n);
    c_.store_rows(dlog_w_.data(), args_.dlog_w, n);
  }

  const Wkv7BackwardArgs& args_;
  const int64_t N_;
  Wkv7Chunk c_;
  Scratch dS_, wide_;               // [W, W]
  Scratch KBt_, VUt_;               // [W, 32]: K^T | B^T, V^T | U^T
  Scratch dVUt_;                    // [W, 32]: dV^T | dU^T
  Scratch dKB_;                     // [32, W]: dk over db
  Scratch dPt_;                     // [W, 16]
  Scratch da_, dlog_w_;             // [16, W]
  Scratch dY_, Q_, met_;            // [16, W], of one reader
  Scratch base_;                    // [W]
  Scratch pairs_, dpairs_, solve_;  // [16, 32], [16, 32], [16, 16]
};

}  // namespace

void wkv7_backward(const Stream&, const Wkv7BackwardArgs& args) {
  const int64_t N = args.in.k.dim(1);
  const auto readers = readers_of(args.head_state, N);
  parallel_for(N * wkv7_chunk_count(args.in.segments), 1, [&](int64_t begin, int64_t end) {
    Backward backward(args);
    for (const Wkv7Chain& chain : chains_between(args.in.segments, N, begin, end))
      backward.run(chain, readers[chain.head][0], readers[chain.head][1]);
  });
}

}  // namespace wuneng::kernels::cpu
