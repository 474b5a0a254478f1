// Attention by blocks of query rows: scores of a block against the keys that it sees, softmax, values. The
// backward computes a block's probabilities again from the saved log-sums. Scratch is one block of scores a
// thread.
#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/blas.h"
#include "kernels/cpu/simd.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

constexpr int64_t kBlock = 64;  // query rows

struct Shapes {
  int64_t H, G, D;
  float scale;
};

// One block of queries of one head and what it sees.
struct Block {
  int64_t q_row, rows;  // in q
  int64_t k_row, keys;  // in k and v: the last query's
  int64_t first_keys;   // the first query's
};

template <class F>
void for_blocks(const AttentionSegment& s, const F& f) {
  for (int64_t at = 0; at < s.q_count; at += kBlock) {
    const int64_t rows = std::min(kBlock, s.q_count - at);
    f(Block{s.q_begin + at, rows, s.k_begin, s.offset + at + rows, s.offset + at + 1});
  }
}

// scores [rows, keys] = scale q k^T
void score(const Shapes& x, const Block& b, const float* q, const float* k, float* scores) {
  sgemm(false, true, b.rows, b.keys, x.D, x.scale, q + b.q_row * x.H * x.D, x.H * x.D,
        k + b.k_row * x.G * x.D, x.G * x.D, 0, scores, b.keys);
}

}  // namespace

void attention_forward(const Stream&, const AttentionForwardArgs& args) {
  const Shapes x{args.q.dim(1), args.k.dim(1), args.q.dim(2), 1 / std::sqrt(float(args.q.dim(2)))};
  parallel_for(static_cast<int64_t>(args.segments.size()) * x.H, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scores;
    for (int64_t job = begin; job < end; ++job) {
      const int64_t h = job % x.H, g = args.kv_head[h];
      for_blocks(args.segments[job / x.H], [&](const Block& b) {
        scores.resize(std::max<size_t>(scores.size(), b.rows * b.keys));
        score(x, b, args.q.f32() + h * x.D, args.k.f32() + g * x.D, scores.data());
        for (int64_t i = 0; i < b.rows; ++i) {
          float* row = scores.data() + i * b.keys;
          const int64_t seen = b.first_keys + i;
          float best = -std::numeric_limits<float>::infinity(), sum = 0;
#pragma omp simd reduction(max : best)
          for (int64_t j = 0; j < seen; ++j) best = std::max(best, row[j]);
#pragma omp simd reduction(+ : sum)
          for (int64_t j = 0; j < seen; ++j) {
            row[j] = exp_fast(row[j] - best);
            sum += row[j];
          }
          const float inverse = 1 / sum;
#pragma omp simd
          for (int64_t j = 0; j < seen; ++j) row[j] *= inverse;
          std::fill(row + seen, row + b.keys, 0.0f);
          args.lse.f32()[(b.q_row + i) * x.H + h] = best + std::log(sum);
        }
        sgemm(false, false, b.rows, x.D, b.keys, 1, scores.data(), b.keys,
              args.v.f32() + (b.k_row * x.G + g) * x.D, x.G * x.D, 0,
              args.out.f32() + (b.q_row * x.H + h) * x.D, x.H * x.D);
      });
    }
  });
}

void attention_backward(const Stream&, const AttentionBackwardArgs& args) {
  const Shapes x{args.q.dim(1), args.k.dim(1), args.q.dim(2), 1 / std::sqrt(float(args.q.dim(2)))};
  // A thread owns key/value heads, so that dk and dv have one writer and one order of summation.
  parallel_for(x.G, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> p, dp;
    for (int64_t h = 0; h < x.H; ++h) {
      const int64_t g = args.kv_head[h];
      if (g < begin || g >= end) continue;
      for (const AttentionSegment& segment : args.segments)
        for_blocks(segment, [&](const Block& b) {
          const size_t size = b.rows * b.keys;
          p.resize(std::max(p.size(), size));
          dp.resize(std::max(dp.size(), size));
          const int64_t q_at = (b.q_row * x.H + h) * x.D, k_at = (b.k_row * x.G + g) * x.D;
          score(x, b, args.q.f32() + h * x.D, args.k.f32() + g * x.D, p.data());
          sgemm(false, true, b.rows, b.keys, x.D, 1, args.dout.f32() + q_at, x.H * x.D, args.v.f32() + k_at,
                x.G * x.D, 0, dp.data(), b.keys);
          for (int64_t i = 0; i < b.rows; ++i) {
            float *row = p.data() + i * b.keys, *drow = dp.data() + i * b.keys;
            const int64_t seen = b.first_keys + i, at = q_at + i * x.H * x.D;
            const float lse = args.lse.f32()[(b.q_row + i) * x.H + h];
            float inner = 0;  // sum_j p_j dp_j = out . dout
#pragma omp simd reduction(+ : inner)
            for (int64_t c = 0; c < x.D; ++c) inner += args.out.f32()[at + c] * args.dout.f32()[at + c];
#pragma omp simd
            for (int64_t j = 0; j < seen; ++j) {
              row[j] = exp_fast(row[j] - lse);
              drow[j] = row[j] * (drow[j] - inner);
            }
            std::fill(row + seen, row + b.keys, 0.0f);
            std::fill(drow + seen, drow + b.keys, 0.0f);
          }
          sgemm(false, false, b.rows, x.D, b.keys, x.scale, dp.data(), b.keys, args.k.f32() + k_at, x.G * x.D,
                0, args.dq.f32() + q_at, x.H * x.D);
          sgemm(true, false, b.keys, x.D, b.rows, x.scale, dp.data(), b.keys, args.q.f32() + q_at, x.H * x.D,
                1, args.dk.f32() + k_at, x.G * x.D);
          sgemm(true, false, b.keys, x.D, b.rows, 1, p.data(), b.keys, args.dout.f32() + q_at, x.H * x.D, 1,
                args.dv.f32() + k_at, x.G * x.D);
        });
    }
  });
}

}  // namespace wuneng::kernels::cpu
