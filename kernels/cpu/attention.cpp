// Attention by blocks of query rows: scores of a block with the keys that it attends to, softmax, weighted
// values. The backward recomputes the probabilities of a block from lse. Scratch is one block of scores per
// thread (two in the backward), independent of the number of rows and heads.
//
// Work items differ in cost (later blocks attend to more keys) and are distributed over threads; no sum is
// split over threads, so the result does not depend on their number.
#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/cpu/blas.h"
#include "kernels/cpu/few_rows.h"
#include "kernels/cpu/simd.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

constexpr int64_t kBlock = 64;  // query rows
constexpr int64_t kWorthAThread =
    100000;  // multiplications: with fewer, starting a thread costs more than it saves

struct Sizes {
  int64_t H, G, D;
  float scale;
  int64_t window;  // keys that a query row attends to at most
};

template <class Args>
Sizes checked_sizes(const Args& args) {
  const int64_t H = args.q.dim(1), G = args.k.dim(1), D = args.q.dim(2);
  WUNENG_ASSERT(args.k.shape() == args.v.shape() && args.k.dim(2) == D);
  WUNENG_ASSERT(args.out.shape() == args.q.shape() && (args.lse.shape() == Shape{args.q.dim(0), H}));
  WUNENG_ASSERT(static_cast<int64_t>(args.kv_head.size()) == H);
  for (const int g : args.kv_head) WUNENG_ASSERT(g >= 0 && g < G);
  for (const AttentionSegment& s : args.segments)
    if (s.q_begin < 0 || s.q_count < 0 || s.q_begin + s.q_count > args.q.dim(0) || s.k_begin < 0 ||
        s.offset < 0 || s.k_begin + s.offset + s.q_count > args.k.dim(0))
      fail(
          "attention: segment of query rows [{}, {}) at position {} of the document at key row {} lies "
          "outside "
          "q {} or k {}",
          s.q_begin, s.q_begin + s.q_count, s.offset, s.k_begin, to_string(args.q.shape()),
          to_string(args.k.shape()));
  WUNENG_ASSERT(args.window >= 0);
  return {H, G, D, 1 / std::sqrt(static_cast<float>(D)), args.window ? args.window : INT64_MAX};
}

// A block of query rows of one document and the keys that it attends to.
struct Block {
  int64_t q_row, rows;  // in q
  int64_t k_row, keys;  // in k and v: those that some row attends to
  int64_t first_keys;   // number of keys that the first row attends to
  // Row i attends to keys [begin(i), end(i)) of these.
  int64_t begin(int64_t i, const Sizes& x) const { return std::max(int64_t{0}, end(i) - x.window); }
  int64_t end(int64_t i) const { return first_keys + i; }
};

void add_blocks(const AttentionSegment& s, const Sizes& x, std::vector<Block>& blocks) {
  for (int64_t at = 0; at < s.q_count; at += kBlock) {
    const int64_t rows = std::min(kBlock, s.q_count - at), first = s.offset + at + 1,
                  skipped = std::max(int64_t{0}, first - x.window);
    blocks.push_back(
        {s.q_begin + at, rows, s.k_begin + skipped, first + rows - 1 - skipped, first - skipped});
  }
}

int64_t pairs(const std::vector<Block>& blocks) {  // pairs of query and key, including masked ones
  return std::accumulate(blocks.begin(), blocks.end(), int64_t{0},
                         [](int64_t sum, const Block& b) { return sum + b.rows * b.keys; });
}

int64_t lanes_for(int64_t jobs, int64_t multiplications) {
  return std::clamp<int64_t>(multiplications / kWorthAThread, 1, std::min<int64_t>(jobs, thread_count()));
}

// scores [rows, keys] = scale q k^T
void score(const Sizes& x, const Block& b, const float* q, const float* k, float* scores) {
  sgemm(false, true, b.rows, b.keys, x.D, x.scale, q + b.q_row * x.H * x.D, x.H * x.D,
        k + b.k_row * x.G * x.D, x.G * x.D, 0, scores, b.keys);
}

void grow(std::vector<float>& scratch, int64_t size) {
  if (static_cast<int64_t>(scratch.size()) < size) scratch.resize(size);
}

// Replaces row by softmax(row); returns its log-sum-exp.
float softmax(float* row, int64_t n) {
  float best = -std::numeric_limits<float>::infinity(), sum = 0;
#pragma omp simd reduction(max : best)
  for (int64_t j = 0; j < n; ++j) best = std::max(best, row[j]);
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) {
    row[j] = exp_fast(row[j] - best);
    sum += row[j];
  }
  const float inverse = 1 / sum;
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) row[j] *= inverse;
  return best + std::log(sum);
}

void forward_block(const AttentionForwardArgs& args, const Sizes& x, const Block& b, int64_t h,
                   std::vector<float>& scores) {
  const int64_t g = args.kv_head[h];
  grow(scores, b.rows * b.keys);
  score(x, b, args.q.f32() + h * x.D, args.k.f32() + g * x.D, scores.data());
  for (int64_t i = 0; i < b.rows; ++i) {
    float* row = scores.data() + i * b.keys;
    const int64_t begin = b.begin(i, x), end = b.end(i);
    args.lse.f32()[(b.q_row + i) * x.H + h] = softmax(row + begin, end - begin);
    std::fill(row, row + begin, 0.0f);
    std::fill(row + end, row + b.keys, 0.0f);
  }
  sgemm(false, false, b.rows, x.D, b.keys, 1, scores.data(), b.keys, args.v.f32() + (b.k_row * x.G + g) * x.D,
        x.G * x.D, 0, args.out.f32() + (b.q_row * x.H + h) * x.D, x.H * x.D);
}

struct BackwardScratch {
  std::vector<float> p, dp;  // [rows, keys] each
};

void backward_block(const AttentionBackwardArgs& args, const Sizes& x, const Block& b, int64_t h,
                    BackwardScratch& scratch) {
  const int64_t g = args.kv_head[h];
  const int64_t q_at = (b.q_row * x.H + h) * x.D, k_at = (b.k_row * x.G + g) * x.D;
  grow(scratch.p, b.rows * b.keys);
  grow(scratch.dp, b.rows * b.keys);
  float *p = scratch.p.data(), *dp = scratch.dp.data();
  const float *out = args.out.f32() + q_at, *dout = args.dout.f32() + q_at;
  const int64_t q_stride = x.H * x.D, k_stride = x.G * x.D;
  score(x, b, args.q.f32() + h * x.D, args.k.f32() + g * x.D, p);
  sgemm(false, true, b.rows, b.keys, x.D, 1, dout, q_stride, args.v.f32() + k_at, k_stride, 0, dp, b.keys);
  for (int64_t i = 0; i < b.rows; ++i) {
    float *row = p + i * b.keys, *drow = dp + i * b.keys;
    const int64_t begin = b.begin(i, x), end = b.end(i);
    const float lse = args.lse.f32()[(b.q_row + i) * x.H + h];
    float inner = 0;  // out . dout = sum_j p_j dp_j
#pragma omp simd reduction(+ : inner)
    for (int64_t c = 0; c < x.D; ++c) inner += out[i * q_stride + c] * dout[i * q_stride + c];
#pragma omp simd
    for (int64_t j = begin; j < end; ++j) {
      row[j] = exp_fast(row[j] - lse);
      drow[j] = row[j] * (drow[j] - inner);  // the gradient of the scaled score
    }
    for (float* scores : {row, drow}) {
      std::fill(scores, scores + begin, 0.0f);
      std::fill(scores + end, scores + b.keys, 0.0f);
    }
  }
  sgemm(false, false, b.rows, x.D, b.keys, x.scale, dp, b.keys, args.k.f32() + k_at, k_stride, 0,
        args.dq.f32() + q_at, q_stride);
  sgemm(true, false, b.keys, x.D, b.rows, x.scale, dp, b.keys, args.q.f32() + q_at, q_stride, 1,
        args.dk.f32() + k_at, k_stride);
  sgemm(true, false, b.keys, x.D, b.rows, 1, p, b.keys, dout, q_stride, 1, args.dv.f32() + k_at, k_stride);
}

// The blocks in groups of segments with overlapping key rows, in the order of their key rows: the key rows of
// different groups are disjoint.
std::vector<std::vector<Block>> disjoint_groups(std::vector<AttentionSegment> segments, const Sizes& x) {
  std::stable_sort(segments.begin(), segments.end(),
                   [](const auto& a, const auto& b) { return a.k_begin < b.k_begin; });
  std::vector<std::vector<Block>> groups;
  int64_t end = -1;
  for (const AttentionSegment& s : segments) {
    if (s.q_count == 0) continue;
    if (s.k_begin >= end) groups.emplace_back();
    add_blocks(s, x, groups.back());
    end = std::max(end, s.k_begin + s.offset + s.q_count);
  }
  return groups;
}

// One query row of segment s, all heads of key/value head g.
void forward_row(const AttentionForwardArgs& args, const Sizes& x, const AttentionSegment& s, int64_t g,
                 std::vector<float>& scores) {
  const auto [first, last] = std::equal_range(args.kv_head.begin(), args.kv_head.end(), g);
  const int64_t h = first - args.kv_head.begin(), heads = last - first,
                keys = std::min(s.offset + 1, x.window), k_row = s.k_begin + s.offset + 1 - keys,
                row = (s.q_begin * x.H + h) * x.D;
  grow(scores, heads * keys);
  few_rows({.a = args.q.f32() + row,
            .lda = x.D,
            .b = args.k,
            .first = (k_row * x.G + g) * x.D,
            .ldb = x.G * x.D,
            .c = scores.data(),
            .ldc = keys,
            .base = nullptr,
            .bias = nullptr,
            .scale = x.scale,
            .M = heads,
            .K = x.D},
           0, keys);
  for (int64_t i = 0; i < heads; ++i) {
    float *weights = scores.data() + i * keys, *out = args.out.f32() + row + i * x.D;
    softmax(weights, keys);
    std::fill(out, out + x.D, 0.0f);
    for (int64_t j = 0; j < keys; ++j) {
      const float *v = args.v.f32() + ((k_row + j) * x.G + g) * x.D, weight = weights[j];
#pragma omp simd
      for (int64_t d = 0; d < x.D; ++d) out[d] += weight * v[d];
    }
  }
}

void forward_rows(const AttentionForwardArgs& args, const Sizes& x,
                  const std::vector<AttentionSegment>& segments) {
  const int64_t jobs = static_cast<int64_t>(segments.size()) * x.G;
  if (!jobs) return;
  int64_t keys = 0;
  for (const AttentionSegment& s : segments) keys += std::min(s.offset + 1, x.window);
  const int64_t lanes = lanes_for(jobs, 2 * keys * x.H * x.D);
  parallel_for(lanes, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scores;
    for (int64_t lane = begin; lane < end; ++lane)
      for (int64_t job = lane; job < jobs; job += lanes)
        forward_row(args, x, segments[job / x.G], job % x.G, scores);
  });
}

}  // namespace

void attention_forward(const Stream&, const AttentionForwardArgs& args) {
  const Sizes x = checked_sizes(args);
  std::vector<Block> blocks;
  std::vector<AttentionSegment> single;
  for (const AttentionSegment& s : args.segments)
    if (args.by_row && s.q_count == 1)
      single.push_back(s);
    else
      add_blocks(s, x, blocks);
  forward_rows(args, x, single);
  const int64_t jobs = static_cast<int64_t>(blocks.size()) * x.H;
  if (!jobs) return;
  const int64_t lanes = lanes_for(jobs, 2 * pairs(blocks) * x.H * x.D);
  parallel_for(lanes, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scores;
    for (int64_t lane = begin; lane < end; ++lane)
      for (int64_t job = lane; job < jobs; job += lanes)  // consecutive jobs cost about the same
        forward_block(args, x, blocks[job / x.H], job % x.H, scores);
  });
}

void attention_backward(const Stream&, const AttentionBackwardArgs& args) {
  const Sizes x = checked_sizes(args);
  WUNENG_ASSERT(args.dout.shape() == args.q.shape() && args.dq.shape() == args.q.shape());
  WUNENG_ASSERT(args.dk.shape() == args.k.shape() && args.dv.shape() == args.v.shape());
  // A job is one key/value head of one group, so that every row of dk and dv has one writer and a fixed order
  // of summation.
  struct Job {
    const std::vector<Block>* blocks;
    int64_t kv_head, cost;
  };
  const auto groups = disjoint_groups(args.segments, x);
  std::vector<Job> jobs;
  for (const std::vector<Block>& blocks : groups)
    for (int64_t g = 0; g < x.G; ++g)
      jobs.push_back({&blocks, g, pairs(blocks) * std::count(args.kv_head.begin(), args.kv_head.end(), g)});
  if (jobs.empty()) return;
  std::stable_sort(jobs.begin(), jobs.end(), [](const Job& a, const Job& b) { return a.cost > b.cost; });
  const int64_t cost = std::accumulate(jobs.begin(), jobs.end(), int64_t{0},
                                       [](int64_t sum, const Job& job) { return sum + job.cost; });
  // Greedy assignment: the most expensive job first, each to the lane with the least work so far.
  std::vector<std::vector<Job>> lanes(lanes_for(static_cast<int64_t>(jobs.size()), 5 * cost * x.D));
  std::vector<int64_t> load(lanes.size());
  for (const Job& job : jobs) {
    const auto least = std::min_element(load.begin(), load.end()) - load.begin();
    lanes[least].push_back(job);
    load[least] += job.cost;
  }
  parallel_for(static_cast<int64_t>(lanes.size()), 1, [&](int64_t begin, int64_t end) {
    BackwardScratch scratch;
    for (int64_t lane = begin; lane < end; ++lane)
      for (const Job& job : lanes[lane])
        for (int64_t h = 0; h < x.H; ++h)
          if (args.kv_head[h] == job.kv_head)
            for (const Block& block : *job.blocks) backward_block(args, x, block, h, scratch);
  });
}

}  // namespace wuneng::kernels::cpu
