// WKV-7 against the recurrence token by token in double, whose backward is checked by finite differences.
// Every buffer is NaN before the call, and rows outside all segments always: wrong reads, wrong writes and
// missing writes are detected.
#include "kernels/wkv7.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>

#include "runtime/threads.h"

namespace wuneng::kernels::wkv7_test {
namespace {

using Vector = std::vector<double>;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr double kClamp = -0.6065306597;  // the strongest decay, -e^(-1/2)
constexpr double kTolerance = 1e-5;       // relative norm, per head

enum class Decay { mixed, clamp, near_zero };

struct Case {
  const char* name;
  int64_t T, N, D;
  std::vector<Wkv7Segment> segments;
  std::vector<int> head_state;
  int readings = 1;
  Decay decay = Decay::mixed;
  bool initial = true, dfinal = true;
};

// A case with its inputs. All are exact in float, so that reference and kernel have equal inputs.
struct Problem : Case {
  Vector log_w, k, v, kappa, rate;     // [T, N, D]
  Vector initial_state, dfinal_state;  // [segments, N, D, D]
  std::vector<Vector> dy, r;           // a [T, R, D] each per reading

  int64_t readers() const { return static_cast<int64_t>(head_state.size()); }
  int64_t states() const { return static_cast<int64_t>(segments.size()) * N; }

  Problem(const Case& c, unsigned seed) : Case(c), random_(seed) {
    const int64_t rows = T * N * D;
    const double strongest = decay == Decay::near_zero ? 1e-4 * kClamp : kClamp;
    log_w = fill(rows, [&] { return decay == Decay::clamp ? kClamp : strongest * uniform_(random_); });
    k = fill(rows, [&] { return normal_(random_) / std::sqrt(D); });
    v = fill(rows, [&] { return normal_(random_); });
    rate = fill(rows, [&] { return 0.05 + 0.9 * uniform_(random_); });
    kappa = fill(rows, [&] { return normal_(random_); });
    for (int64_t i = 0; i < rows; i += D) {
      double norm = 0;
      for (int64_t c = 0; c < D; ++c) norm += kappa[i + c] * kappa[i + c];
      for (int64_t c = 0; c < D; ++c) kappa[i + c] = static_cast<float>(kappa[i + c] / std::sqrt(norm));
    }
    const auto normal = [&] { return normal_(random_); };
    initial_state = fill(
        states() * D * D, initial ? std::function<double()>(normal) : [] { return 0.0; });
    dfinal_state = fill(
        states() * D * D, dfinal ? std::function<double()>(normal) : [] { return 0.0; });
    for (int i = 0; i < readings; ++i) {
      dy.push_back(fill(T * readers() * D, normal));
      r.push_back(fill(T * readers() * D, normal));
    }
  }

 private:
  static Vector fill(int64_t n, const std::function<double()>& next) {
    Vector x(n);
    for (double& value : x) value = static_cast<float>(next());
    return x;
  }
  std::mt19937 random_;
  std::normal_distribution<double> normal_;
  std::uniform_real_distribution<double> uniform_{0.0, 1.0};
};

// The recurrence and its gradients, one state head of one segment after another, in double.
struct Reference {
  const Problem& p;
  Vector removed;                        // [T, N, D]
  Vector before, after;                  // [T, N, D, D]: S_{t-1} and S_t
  Vector final_state;                    // [segments, N, D, D]
  Vector dlog_w, dk, dv, dkappa, drate;  // [T, N, D]
  Vector dinitial;                       // [segments, N, D, D]

  explicit Reference(const Problem& problem)
      : p(problem),
        removed(p.T * p.N * p.D),
        before(removed.size() * p.D),
        after(before),
        final_state(p.initial_state.size()) {
    for (size_t s = 0; s < p.segments.size(); ++s)
      for (int64_t n = 0; n < p.N; ++n) forward(s, n);
  }

  void backward() {
    for (Vector* x : {&dlog_w, &dk, &dv, &dkappa, &drate}) x->assign(removed.size(), 0.0);
    dinitial = p.dfinal_state;
    for (size_t s = 0; s < p.segments.size(); ++s)
      for (int64_t n = 0; n < p.N; ++n) backward(s, n);
  }

  // S_t[head_state[h]] x[t, h], or with the transpose.
  Vector read(const Vector& x, bool transposed) const {
    Vector y(x.size(), 0.0);
    for (const Wkv7Segment& segment : p.segments)
      for (int64_t t = segment.begin; t < segment.begin + segment.count; ++t)
        for (int64_t h = 0; h < p.readers(); ++h) {
          const double* S = &after[(t * p.N + p.head_state[h]) * p.D * p.D];
          const int64_t at = (t * p.readers() + h) * p.D;
          for (int64_t i = 0; i < p.D; ++i)
            for (int64_t j = 0; j < p.D; ++j)
              y[at + (transposed ? j : i)] += S[i * p.D + j] * x[at + (transposed ? i : j)];
        }
    return y;
  }

  // The function that is differentiated: all readings and the final state, weighted by dy and dfinal.
  double loss() const {
    double sum = 0;
    for (int i = 0; i < p.readings; ++i) {
      const Vector y = read(p.r[i], false);
      for (size_t j = 0; j < y.size(); ++j) sum += y[j] * p.dy[i][j];
    }
    for (size_t j = 0; j < final_state.size(); ++j) sum += final_state[j] * p.dfinal_state[j];
    return sum;
  }

 private:
  void forward(size_t s, int64_t n) {
    const int64_t D = p.D, square = D * D, begin = p.segments[s].begin;
    const double* state = &p.initial_state[(s * p.N + n) * square];
    for (int64_t t = begin; t < begin + p.segments[s].count; ++t) {
      const int64_t at = (t * p.N + n) * D;
      std::copy_n(state, square, &before[at * D]);
      double* S = &after[at * D];
      for (int64_t i = 0; i < D; ++i) {
        double u = 0;
        for (int64_t j = 0; j < D; ++j) u -= state[i * D + j] * p.kappa[at + j];
        removed[at + i] = u;
        for (int64_t j = 0; j < D; ++j)
          S[i * D + j] = state[i * D + j] * std::exp(p.log_w[at + j]) + u * p.kappa[at + j] * p.rate[at + j] +
                         p.v[at + i] * p.k[at + j];
      }
      state = S;
    }
    std::copy_n(state, square, &final_state[(s * p.N + n) * square]);
  }

  void backward(size_t s, int64_t n) {
    const int64_t D = p.D, R = p.readers(), begin = p.segments[s].begin;
    double* dS = &dinitial[(s * p.N + n) * D * D];
    for (int64_t t = begin + p.segments[s].count - 1; t >= begin; --t) {
      const int64_t at = (t * p.N + n) * D;
      for (int i = 0; i < p.readings; ++i)
        for (int64_t h = 0; h < R; ++h)
          if (p.head_state[h] == n)
            for (int64_t e = 0; e < D * D; ++e)
              dS[e] += p.dy[i][(t * R + h) * D + e / D] * p.r[i][(t * R + h) * D + e % D];
      const double *S = &before[at * D], *kappa = &p.kappa[at], *rate = &p.rate[at];
      for (int64_t i = 0; i < D; ++i) {
        double du = 0;
        for (int64_t j = 0; j < D; ++j) {
          const double d = dS[i * D + j], w = std::exp(p.log_w[at + j]), db = d * removed[at + i];
          dlog_w[at + j] += w * d * S[i * D + j];
          dk[at + j] += d * p.v[at + i];
          dv[at + i] += d * p.k[at + j];
          dkappa[at + j] += db * rate[j];
          drate[at + j] += db * kappa[j];
          du += d * kappa[j] * rate[j];
        }
        for (int64_t j = 0; j < D; ++j) {
          dkappa[at + j] -= du * S[i * D + j];
          dS[i * D + j] = dS[i * D + j] * std::exp(p.log_w[at + j]) - du * kappa[j];
        }
      }
    }
  }
};

Tensor nan_tensor(Shape shape) {
  Tensor t = Tensor::empty(std::move(shape));
  std::fill_n(t.f32(), t.numel(), kNan);
  return t;
}

// The kernels on a problem.
struct Kernels {
  const Problem& p;
  Stream stream;
  Wkv7Inputs in;
  Tensor chunk_states, removed, final_state;

  explicit Kernels(const Problem& problem) : p(problem) {
    const auto input = [&](const Vector& x) { return rows(x, p.N); };
    in = {input(p.log_w), input(p.k), input(p.v), input(p.kappa), input(p.rate), p.segments};
    chunk_states = nan_tensor({wkv7_kept_count(p.segments, DeviceKind::cpu), p.N, p.D, p.D});
    removed = like_rows(p.N);
    final_state = like_states();
    wkv7_states(stream, {.in = in,
                         .initial = p.initial ? states(p.initial_state) : Tensor(),
                         .chunk_states = chunk_states,
                         .removed = removed,
                         .final = final_state});
  }

  Tensor like_rows(int64_t heads) const { return nan_tensor({p.T, heads, p.D}); }
  Tensor like_states() const { return nan_tensor({static_cast<int64_t>(p.segments.size()), p.N, p.D, p.D}); }
  Tensor states(const Vector& x) const {
    Tensor t = like_states();
    std::copy(x.begin(), x.end(), t.f32());
    return t;
  }
  // NaN except in the rows of the segments.
  Tensor rows(const Vector& x, int64_t heads) const {
    Tensor t = like_rows(heads);
    for (const Wkv7Segment& s : p.segments) {
      const int64_t begin = s.begin * heads * p.D, count = s.count * heads * p.D;
      std::copy_n(x.begin() + begin, count, t.f32() + begin);
    }
    return t;
  }

  Tensor read(const Vector& x, bool transposed) const {
    const Wkv7ReadArgs args{.in = in,
                            .chunk_states = chunk_states,
                            .removed = removed,
                            .head_state = p.head_state,
                            .r = rows(x, p.readers()),
                            .y = like_rows(p.readers())};
    transposed ? wkv7_read_transposed(stream, args) : wkv7_read(stream, args);
    return args.y;
  }

  Wkv7BackwardArgs backward() const {
    Wkv7BackwardArgs args{.in = in,
                          .chunk_states = chunk_states,
                          .removed = removed,
                          .head_state = p.head_state,
                          .dfinal = p.dfinal ? states(p.dfinal_state) : Tensor(),
                          .dinitial = like_states()};
    for (Tensor* x : {&args.dlog_w, &args.dk, &args.dv, &args.dkappa, &args.drate}) *x = like_rows(p.N);
    for (int i = 0; i < p.readings; ++i)
      args.readings.push_back(
          {rows(p.dy[i], p.readers()), rows(p.r[i], p.readers()), like_rows(p.readers())});
    wkv7_backward(stream, args);
    return args;
  }
};

// |found - expected| / |expected| within the tolerance for each head; exactly 0 if expected is 0.
void expect_close(const char* what, const float* found, const double* expected, int64_t rows, int64_t heads,
                  int64_t width) {
  for (int64_t h = 0; h < heads; ++h) {
    double error = 0, norm = 0;
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t c = 0; c < width; ++c) {
        const double e = expected[(t * heads + h) * width + c], d = found[(t * heads + h) * width + c] - e;
        error += d * d, norm += e * e;
      }
    EXPECT_TRUE(std::sqrt(error) <= kTolerance * std::sqrt(norm))
        << what << ", head " << h << ": relative error " << std::sqrt(error / norm)
        << ", |expected| = " << std::sqrt(norm);
  }
}

void expect_states(const char* what, const Tensor& found, const Vector& expected) {
  expect_close(what, found.f32(), expected.data(), found.dim(0), found.dim(1), found.dim(2) * found.dim(3));
}

// Correct in the rows of the segments, not written elsewhere.
void expect_rows(const char* what, const Problem& p, const Tensor& found, const Vector& expected) {
  const int64_t heads = found.dim(1), width = heads * p.D;
  std::vector<float> f;
  Vector e;
  int64_t at = 0;
  const auto untouched = [&](int64_t end) {
    for (; at < end * width; ++at)
      ASSERT_TRUE(std::isnan(found.f32()[at])) << what << ": wrote row " << at / width << " of no segment";
  };
  for (const Wkv7Segment& s : p.segments) {
    untouched(s.begin);
    f.insert(f.end(), found.f32() + at, found.f32() + at + s.count * width);
    e.insert(e.end(), expected.begin() + at, expected.begin() + at + s.count * width);
    at += s.count * width;
  }
  untouched(p.T);
  expect_close(what, f.data(), e.data(), f.size() / width, heads, p.D);
}

class Wkv7 : public testing::TestWithParam<Case> {};

TEST_P(Wkv7, ForwardMatchesDoubleRecurrence) {
  const Problem p(GetParam(), 1);
  const Reference reference(p);
  const Kernels kernels(p);
  expect_states("final", kernels.final_state, reference.final_state);
  expect_rows("removed", p, kernels.removed, reference.removed);
  Vector chunk_states;
  for (const Wkv7Segment& s : p.segments)
    for (int64_t t = s.begin; t < s.begin + s.count; t += wkv7_kept(DeviceKind::cpu)) {
      const int64_t size = p.N * p.D * p.D;
      chunk_states.insert(chunk_states.end(), &reference.before[t * size],
                          &reference.before[t * size] + size);
    }
  expect_states("chunk_states", kernels.chunk_states, chunk_states);
  for (int i = 0; i < p.readings; ++i) {
    expect_rows("read", p, kernels.read(p.r[i], false), reference.read(p.r[i], false));
    expect_rows("read_transposed", p, kernels.read(p.r[i], true), reference.read(p.r[i], true));
  }
}

TEST_P(Wkv7, BackwardMatchesDoubleRecurrence) {
  const Problem p(GetParam(), 2);
  Reference reference(p);
  reference.backward();
  const Wkv7BackwardArgs found = Kernels(p).backward();
  expect_rows("dlog_w", p, found.dlog_w, reference.dlog_w);
  expect_rows("dk", p, found.dk, reference.dk);
  expect_rows("dv", p, found.dv, reference.dv);
  expect_rows("dkappa", p, found.dkappa, reference.dkappa);
  expect_rows("drate", p, found.drate, reference.drate);
  expect_states("dinitial", found.dinitial, reference.dinitial);
  for (int i = 0; i < p.readings; ++i)
    expect_rows("dr", p, found.readings[i].dr, reference.read(p.dy[i], true));
}

TEST_P(Wkv7, RecurrentMatchesDoubleRecurrence) {
  Case one_reading = GetParam();
  one_reading.readings = 1;
  const Problem p(one_reading, 3);
  const Kernels kernels(p);
  const Reference reference(p);
  const Tensor r = kernels.rows(p.r[0], p.readers()), y = kernels.like_rows(p.readers()),
               final = kernels.like_states();
  wkv7_recurrent(kernels.stream, {.in = kernels.in,
                                  .head_state = p.head_state,
                                  .r = r,
                                  .y = y,
                                  .initial = p.initial ? kernels.states(p.initial_state) : Tensor(),
                                  .final = final});
  expect_rows("recurrent", p, y, reference.read(p.r[0], false));
  expect_states("final", final, reference.final_state);
}

// One thread processes a whole chain, so the result does not depend on the number of threads.
TEST_P(Wkv7, ThreadsChangeNothing) {
  const Problem p(GetParam(), 4);
  const auto run = [&](int threads) {
    const int before = thread_count();
    set_thread_count(threads);
    const Kernels kernels(p);
    const Wkv7BackwardArgs b = kernels.backward();
    std::vector<Tensor> out{kernels.final_state, kernels.removed, b.dlog_w, b.dk, b.dv, b.dkappa, b.drate};
    for (const Vector& r : p.r) out.insert(out.end(), {kernels.read(r, false), kernels.read(r, true)});
    for (const auto& pair : b.readings) out.push_back(pair.dr);
    set_thread_count(before);
    return out;
  };
  const std::vector<Tensor> one = run(1), three = run(3);
  for (size_t i = 0; i < one.size(); ++i)
    EXPECT_EQ(std::memcmp(one[i].raw(), three[i].raw(), one[i].bytes()), 0) << "output " << i;
}

INSTANTIATE_TEST_SUITE_P(
    Cases, Wkv7,
    testing::Values(
        Case{"d64_two_documents", 83, 2, 64, {{0, 40}, {43, 37}}, {0, 0, 1, 1}, 2},
        Case{"d64_uneven_readers", 64, 2, 64, {{0, 64}}, {0, 1, 1}},
        Case{"d64_state_head_without_readers", 50, 3, 64, {{1, 48}}, {0, 2}, 1, Decay::mixed, true, false},
        Case{"d64_from_zero", 48, 1, 64, {{0, 48}}, {0}, 1, Decay::mixed, false, false},
        Case{"d64_all_at_the_clamp", 100, 2, 64, {{0, 100}}, {0, 1}, 1, Decay::clamp},
        Case{"d64_all_near_zero", 100, 2, 64, {{0, 100}}, {0, 1}, 1, Decay::near_zero},
        Case{"d64_final_state_only", 40, 2, 64, {{0, 33}}, {0, 1}, 0},
        Case{"d128", 72, 2, 128, {{2, 35}, {40, 32}}, {0, 0, 1}, 2},
        Case{"d128_all_at_the_clamp", 48, 1, 128, {{0, 48}}, {0}, 1, Decay::clamp},
        Case{"d8_short_documents", 60, 3, 8, {{0, 1}, {1, 15}, {16, 16}, {33, 17}, {55, 3}}, {0, 0, 1, 2}, 2},
        Case{"d48", 40, 2, 48, {{0, 40}}, {0, 1}},
        Case{"d5_odd", 45, 3, 5, {{0, 20}, {22, 21}}, {0, 1, 1, 1, 2}, 2}),
    [](const auto& info) { return std::string(info.param.name); });

// The gradients of the reference are those of its loss.
TEST(Wkv7Reference, BackwardMatchesFiniteDifferences) {
  Problem p(Case{"tiny", 7, 2, 3, {{0, 3}, {4, 3}}, {0, 0, 1}, 2}, 5);
  Reference reference(p);
  reference.backward();
  const auto check = [&](const char* what, Vector& x, const Vector& gradient) {
    for (size_t i = 0; i < x.size(); ++i) {
      const double h = 1e-5, value = x[i];
      x[i] = value + h;
      const double above = Reference(p).loss();
      x[i] = value - h;
      const double below = Reference(p).loss();
      x[i] = value;
      const double slope = (above - below) / (2 * h);
      ASSERT_NEAR(slope, gradient[i], 1e-7 * (1 + std::abs(gradient[i]))) << what << "[" << i << "]";
    }
  };
  check("log_w", p.log_w, reference.dlog_w);
  check("k", p.k, reference.dk);
  check("v", p.v, reference.dv);
  check("kappa", p.kappa, reference.dkappa);
  check("rate", p.rate, reference.drate);
  check("initial", p.initial_state, reference.dinitial);
}

}  // namespace
}  // namespace wuneng::kernels::wkv7_test
