// Attention against a direct implementation in double, whose backward is checked by finite differences.
// Outputs are NaN before the call, and so are rows outside all segments, of inputs too: wrong reads, wrong
// writes and missing writes are detected. Also tests exp_fast.
#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "kernels/cpu/simd.h"
#include "runtime/threads.h"

namespace wuneng::kernels::attention_test {
namespace {

using Vector = std::vector<double>;
constexpr double kTolerance = 1e-5;  // relative norm
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Case {
  const char* name;
  int64_t Tq, Tk, G, D;
  std::vector<AttentionSegment> segments;
  std::vector<int> kv_head;
  int64_t window = 0;
};

std::string name_of(const testing::TestParamInfo<Case>& info) { return info.param.name; }

// A case with its inputs, all exact in float.
struct Problem : Case {
  int64_t H;
  Vector q, dout;                   // [Tq, H, D]
  Vector k, v, dk_start, dv_start;  // [Tk, G, D]

  explicit Problem(const Case& c) : Case(c), H(static_cast<int64_t>(kv_head.size())) {
    std::vector<bool> queries(Tq), keys(Tk);
    for (const AttentionSegment& s : segments) {
      std::fill_n(queries.begin() + s.q_begin, s.q_count, true);
      std::fill_n(keys.begin() + s.k_begin, s.offset + s.q_count, true);
    }
    q = fill(queries, H), dout = fill(queries, H);
    k = fill(keys, G), v = fill(keys, G);
    dk_start = fill(keys, G), dv_start = fill(keys, G);
  }

 private:
  Vector fill(const std::vector<bool>& rows, int64_t heads) {  // NaN where a row is in no segment
    Vector x(rows.size() * heads * D, kNan);
    for (size_t i = 0; i < x.size(); ++i)
      if (rows[i / (heads * D)]) x[i] = static_cast<float>(normal_(random_));
    return x;
  }
  std::mt19937 random_{7};
  std::normal_distribution<double> normal_;
};

// calls f(query row, head, first key row, number of keys that it attends to)
template <class F>
void for_queries(const Problem& p, const F& f) {
  for (const AttentionSegment& s : p.segments)
    for (int64_t i = 0; i < s.q_count; ++i)
      for (int64_t h = 0; h < p.H; ++h) {
        const int64_t all = s.offset + i + 1, keys = p.window ? std::min(all, p.window) : all;
        f(s.q_begin + i, h, s.k_begin + all - keys, keys);
      }
}

double dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

struct Reference {
  Vector out, lse;    // NaN in the rows of no segment
  Vector dq, dk, dv;  // dk and dv include their initial values

  explicit Reference(const Problem& p)
      : out(p.q.size(), kNan), lse(p.Tq * p.H, kNan), dq(p.q.size(), kNan), dk(p.dk_start), dv(p.dv_start) {
    const double scale = 1 / std::sqrt(static_cast<double>(p.D));
    for_queries(p, [&](int64_t t, int64_t h, int64_t k_row, int64_t keys) {
      const int64_t at = (t * p.H + h) * p.D;
      const auto key_at = [&](int64_t j) { return ((k_row + j) * p.G + p.kv_head[h]) * p.D; };
      Vector w(keys);
      for (int64_t j = 0; j < keys; ++j) w[j] = scale * dot(&p.q[at], &p.k[key_at(j)], p.D);
      const double best = *std::max_element(w.begin(), w.end());
      double sum = 0;
      for (double& x : w) {
        x = std::exp(x - best);
        sum += x;
      }
      for (double& x : w) x /= sum;
      lse[t * p.H + h] = best + std::log(sum);
      std::fill_n(&out[at], p.D, 0.0);
      std::fill_n(&dq[at], p.D, 0.0);
      for (int64_t j = 0; j < keys; ++j)
        for (int64_t c = 0; c < p.D; ++c) out[at + c] += w[j] * p.v[key_at(j) + c];
      const double inner = dot(&out[at], &p.dout[at], p.D);
      for (int64_t j = 0; j < keys; ++j) {
        const int64_t key = key_at(j);
        const double ds = scale * w[j] * (dot(&p.dout[at], &p.v[key], p.D) - inner);
        for (int64_t c = 0; c < p.D; ++c) {
          dq[at + c] += ds * p.k[key + c];
          dk[key + c] += ds * p.q[at + c];
          dv[key + c] += w[j] * p.dout[at + c];
        }
      }
    });
  }
};

Tensor tensor(const Vector& x, Shape shape) {
  return Tensor::from(std::vector<float>(x.begin(), x.end()), std::move(shape));
}

struct Found {
  Tensor out, lse, dq, dk, dv;

  explicit Found(const Problem& p) {
    const Shape queries{p.Tq, p.H, p.D}, keys{p.Tk, p.G, p.D};
    const Tensor q = tensor(p.q, queries), k = tensor(p.k, keys), v = tensor(p.v, keys);
    out = tensor(Vector(p.q.size(), kNan), queries);
    lse = tensor(Vector(p.Tq * p.H, kNan), {p.Tq, p.H});
    dq = out.clone(), dk = tensor(p.dk_start, keys), dv = tensor(p.dv_start, keys);
    attention_forward({}, {.q = q,
                           .k = k,
                           .v = v,
                           .out = out,
                           .lse = lse,
                           .segments = p.segments,
                           .kv_head = p.kv_head,
                           .window = p.window});
    attention_backward({}, {.q = q,
                            .k = k,
                            .v = v,
                            .out = out,
                            .lse = lse,
                            .dout = tensor(p.dout, queries),
                            .dq = dq,
                            .dk = dk,
                            .dv = dv,
                            .segments = p.segments,
                            .kv_head = p.kv_head,
                            .window = p.window});
  }
};

// NaN is expected exactly where the reference has it.
void expect_near(const Tensor& found, const Vector& expected, const char* what) {
  ASSERT_EQ(found.numel(), static_cast<int64_t>(expected.size()));
  double error = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double x = found.f32()[i];
    ASSERT_EQ(std::isnan(x), std::isnan(expected[i])) << what << ", element " << i;
    if (std::isnan(x)) continue;
    error += (x - expected[i]) * (x - expected[i]);
    norm += expected[i] * expected[i];
  }
  EXPECT_LE(std::sqrt(error), kTolerance * std::sqrt(norm)) << what;
}

class Attention : public testing::TestWithParam<Case> {
 protected:
  ~Attention() override { set_thread_count(threads_before_); }

 private:
  int threads_before_ = thread_count();
};

TEST_P(Attention, ForwardAndBackwardAreThoseOfTheFormulas) {
  const Problem problem(GetParam());
  const Reference expected(problem);
  for (const int threads : {1, 2, 3}) {
    set_thread_count(threads);
    const Found found(problem);
    expect_near(found.out, expected.out, "out");
    expect_near(found.lse, expected.lse, "lse");
    expect_near(found.dq, expected.dq, "dq");
    expect_near(found.dk, expected.dk, "dk");
    expect_near(found.dv, expected.dv, "dv");
  }
}

TEST_P(Attention, DoesNotDependOnTheThreadCount) {
  const Problem problem(GetParam());
  set_thread_count(1);
  const Found one(problem);
  for (const int threads : {2, 3, 5}) {
    set_thread_count(threads);
    const Found many(problem);
    for (const auto part : {&Found::out, &Found::lse, &Found::dq, &Found::dk, &Found::dv})
      EXPECT_EQ(std::memcmp((one.*part).raw(), (many.*part).raw(), (one.*part).bytes()), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, Attention,
    testing::Values(
        // clang-format off
        Case{"one_document", 5, 5, 1, 8, {{0, 5, 0, 0}}, {0}},
        Case{"longer_than_a_block", 200, 200, 2, 16, {{0, 200, 0, 0}}, {0, 0, 1, 1}},
        Case{"uneven_heads", 130, 130, 2, 16, {{0, 130, 0, 0}}, {0, 1, 1}},
        Case{"a_key_head_that_nobody_reads", 70, 70, 3, 16, {{0, 70, 0, 0}}, {0, 0, 2}},
        Case{"packed_documents", 203, 203, 2, 16,
             {{0, 70, 0, 0}, {70, 1, 70, 0}, {71, 64, 71, 0}, {138, 65, 138, 0}}, {0, 0, 1}},
        Case{"a_block_from_the_middle", 40, 150, 1, 16, {{0, 40, 10, 90}}, {0, 0}},
        Case{"the_middle_of_one_and_the_start_of_another", 100, 260, 2, 16,
             {{5, 45, 0, 80}, {52, 48, 130, 0}}, {0, 1, 1}},
        Case{"two_segments_of_one_document", 140, 140, 2, 16, {{70, 70, 0, 70}, {0, 70, 0, 0}}, {0, 1}},
        Case{"shared_keys_beside_another_document", 120, 160, 1, 16,
             {{80, 40, 100, 0}, {40, 40, 0, 60}, {0, 40, 0, 20}}, {0, 0}},
        Case{"an_empty_segment_among_others", 64, 64, 1, 16,
             {{0, 0, 0, 0}, {0, 64, 0, 0}, {64, 0, 64, 0}}, {0, 0}},
        Case{"a_window", 200, 200, 2, 16, {{0, 200, 0, 0}}, {0, 0, 1}, 30},
        Case{"a_window_of_two_keys", 70, 70, 1, 16, {{0, 70, 0, 0}}, {0}, 2},
        Case{"a_window_over_documents", 203, 203, 2, 16,
             {{0, 70, 0, 0}, {70, 1, 70, 0}, {71, 64, 71, 0}, {138, 65, 138, 0}}, {0, 0, 1}, 64},
        Case{"a_window_from_the_middle", 40, 250, 1, 16, {{0, 40, 10, 190}}, {0, 0}, 100},
        // clang-format on
        Case{"no_segments", 3, 3, 1, 8, {}, {0, 0}}),
    name_of);

TEST(AttentionReference, BackwardIsTheSlopeOfTheForward) {
  Problem p({"", 4, 7, 2, 3, {{0, 2, 0, 2}, {2, 2, 4, 1}}, {0, 1, 1}});
  const Reference at(p);
  const auto loss = [&] {
    const Reference r(p);
    return dot(r.out.data(), p.dout.data(), static_cast<int64_t>(r.out.size()));
  };
  const auto check = [&](Vector& x, const Vector& gradient, const Vector& start) {
    for (size_t i = 0; i < x.size(); ++i) {
      const double here = x[i], step = 1e-5;
      x[i] = here + step;
      const double above = loss();
      x[i] = here - step;
      const double below = loss();
      x[i] = here;
      EXPECT_NEAR((above - below) / (2 * step), gradient[i] - start[i], 1e-8);
    }
  };
  check(p.q, at.dq, Vector(p.q.size(), 0.0));
  check(p.k, at.dk, p.dk_start);
  check(p.v, at.dv, p.dv_start);
}

// A token at a time, as generation has it, is the same as all at once.
TEST(AttentionForward, OneRowAtATimeIsTheSame) {
  for (const int64_t window : {0, 1, 7, 40}) {
    Problem p({"", 40, 40, 2, 16, {{0, 40, 0, 0}}, {0, 0, 1}, window});
    const Reference expected(p);
    const Tensor q = tensor(p.q, {p.Tq, p.H, p.D}), k = tensor(p.k, {p.Tk, p.G, p.D}),
                 v = tensor(p.v, {p.Tk, p.G, p.D}), out = Tensor::zeros(q.shape());
    std::vector<AttentionSegment> rows;
    for (int64_t i = 0; i < p.Tq; ++i) rows.push_back({i, 1, 0, i});
    attention_forward({}, {.q = q,
                           .k = k,
                           .v = v,
                           .out = out,
                           .lse = Tensor::zeros({p.Tq, p.H}),
                           .segments = rows,
                           .kv_head = p.kv_head,
                           .window = window,
                           .by_row = true});
    expect_near(out, expected.out, "out");
  }
}

// Integers make the scores exact; with scores up to hundreds e^score would overflow.
TEST(AttentionForward, LargeScoresDoNotOverflow) {
  Problem p({"", 40, 40, 1, 16, {{0, 40, 0, 0}}, {0}});
  for (Vector* x : {&p.q, &p.k})
    for (double& value : *x) value = std::round(10 * value);
  double largest = 0;
  const Reference expected(p);
  for (const double lse : expected.lse) largest = std::max(largest, lse);
  ASSERT_GT(largest, 200);
  const Found found(p);
  expect_near(found.out, expected.out, "out");
  expect_near(found.lse, expected.lse, "lse");
}

TEST(AttentionForward, SegmentsOutsideTheTensorsAreNamed) {
  const Tensor q = Tensor::zeros({10, 1, 8}), k = Tensor::zeros({12, 1, 8}), lse = Tensor::zeros({10, 1});
  const auto run = [&](AttentionSegment segment) {
    attention_forward(
        {}, {.q = q, .k = k, .v = k, .out = q.clone(), .lse = lse, .segments = {segment}, .kv_head = {0}});
  };
  EXPECT_NO_THROW(run({4, 6, 2, 4}));
  EXPECT_THROW(run({5, 6, 0, 0}), Error);   // past q's last row
  EXPECT_THROW(run({4, 6, 2, 5}), Error);   // past k's
  EXPECT_THROW(run({0, 2, -1, 0}), Error);  // before k's first
}

// The largest relative error of f against the double function over [begin, end].
template <class F, class Exact>
double worst(const F& f, const Exact& exact, double begin, double end) {
  double error = 0;
  for (int i = 0; i <= 1000000; ++i) {
    const auto x = static_cast<float>(begin + (end - begin) * i / 1e6);
    error = std::max(error, std::abs(f(x) / exact(static_cast<double>(x)) - 1));
  }
  return error;
}

TEST(FastFunctions, AreAsCloseAsTheySay) {
  using namespace cpu;
  const auto exact_exp = [](double x) { return std::exp(x); };
  const auto exact_tanh = [](double x) { return std::tanh(x); };
  const auto exact_sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  const auto exact_silu = [&](double x) { return x * exact_sigmoid(x); };
  EXPECT_LT(worst(exp_fast, exact_exp, -87, 88), 2e-7);
  EXPECT_LT(worst(sigmoid, exact_sigmoid, -87, 40), 2e-7);
  EXPECT_LT(worst(silu, exact_silu, -87, -1e-6), 2e-7);
  EXPECT_LT(worst(tanh_fast, exact_tanh, 1e-6, 1.5), 2e-7);
  EXPECT_LT(worst(tanh_fast, exact_tanh, -50, -1.5), 2e-7);
}

TEST(FastFunctions, SaturateAtBothEnds) {
  using namespace cpu;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float large : {89.0f, 1e30f, kInfinity}) {
    EXPECT_EQ(exp_fast(-large), 0);
    EXPECT_EQ(exp_fast(large), kInfinity);
    EXPECT_NEAR(sigmoid(-large), 0, 1e-37);
    EXPECT_EQ(sigmoid(large), 1);
    EXPECT_EQ(silu(large), large);
    EXPECT_EQ(tanh_fast(-large), -1);
    EXPECT_EQ(tanh_fast(large), 1);
  }
  EXPECT_NEAR(silu(-1e30f), 0, 1e-30);
  EXPECT_EQ(tanh_fast(0), 0);
  for (const auto f : {exp_fast, sigmoid, silu, tanh_fast}) EXPECT_TRUE(std::isnan(f(kNan)));
}

}  // namespace
}  // namespace wuneng::kernels::attention_test
