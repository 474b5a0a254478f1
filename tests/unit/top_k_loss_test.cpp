// The divergence from a teacher's k most probable tokens and the mass of the
// rest, against the formula in double precision: losses, and gradients of the
// hidden state and of the output matrix.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/top_k.h"
#include "model/objectives/vocabulary_loss.h"
#include "tests/unit/expect_near.h"

namespace wuneng::top_k_loss_test {
namespace {

struct Case {
  const char* name;
  LossOptions options;
  int64_t k;
  int64_t shared;     // columns that both vocabularies share
  float sharper = 1;  // factor of the student's logits: with a large one the
                      // rest's mass is small
};
std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }

class TopKLoss : public testing::TestWithParam<Case> {
 protected:
  static constexpr int64_t T = 11, d = 6, V = 40;

  TopKLoss() {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    const auto fill = [&](const Tensor& t, float factor) {
      for (int64_t i = 0; i < t.numel(); ++i) t.f32()[i] = factor * normal(random);
      return t;
    };
    hidden_ = fill(Tensor::empty({T, d}), GetParam().sharper);
    teacher_ = fill(Tensor::empty({T, V}), 2);
    head_.held = head_.owned = {0, V};
    head_.var = Var(fill(Tensor::empty({V, d}), 1), true);
    labels_ = Tensor::from<int32_t>({0, 39, -100, 10, 20, 1, -100, 0, 33, 5, 10}, {T});
  }

  // Of the teacher's logits over the shared columns, as its ranks make it.
  TeacherDistribution distribution() const {
    const Case& c = GetParam();
    const Tensor x = Tensor::empty({1, T, c.shared}), ids = Tensor::empty({T, c.k}, DType::i32),
                 top = Tensor::empty({T, c.k + 1});
    for (int64_t i = 0; i < T; ++i) std::copy_n(teacher_.f32() + i * V, c.shared, x.f32() + i * c.shared);
    kernels::top_k(
        {}, {.x = x, .factor = 1 / c.options.temperature, .normalize = true, .top = top, .top_ids = ids});
    return {.ids = ids, .logprobs = top, .shared = c.shared};
  }

  Tensor hidden_, teacher_, labels_;
  Parameter head_;
};

using Vector = std::vector<double>;

Vector softmax(const Vector& x, size_t count) {
  double largest = x[0], sum = 0;
  for (size_t c = 0; c < count; ++c) largest = std::max(largest, x[c]);
  Vector p(x.size(), 0.0);
  for (size_t c = 0; c < count; ++c) sum += p[c] = std::exp(x[c] - largest);
  for (double& y : p) y /= sum;
  return p;
}

// Of two distributions over classes: the divergence, and its derivative by each
// P.
double divergence(const Vector& Q, const Vector& P, double beta, Vector& slope) {
  double of_teacher = 0, of_student = 0;
  slope.assign(P.size(), 0.0);
  for (size_t j = 0; j < P.size(); ++j) {
    const double m = beta == 0 ? P[j] : beta == 1 ? Q[j] : beta * Q[j] + (1 - beta) * P[j];
    of_teacher += Q[j] * std::log(Q[j] / m);
    of_student += P[j] * std::log(P[j] / m);
    slope[j] = beta == 0   ? -Q[j] / P[j]
               : beta == 1 ? std::log(P[j] / Q[j]) + 1
                           : (1 - beta) * std::log(P[j] / m);  // terms of m cancel
  }
  return beta == 0 ? of_teacher : beta == 1 ? of_student : beta * of_teacher + (1 - beta) * of_student;
}

TEST_P(TopKLoss, AgreesWithTheFormula) {
  const Case& c = GetParam();
  const double t = c.options.temperature, share = c.options.ce_weight, loss_tokens = 7;
  std::vector<Vector> dh(T, Vector(d, 0.0)), dw(V, Vector(d, 0.0));
  double total = 0, whole = 0, loss = 0;
  for (int64_t i = 0; i < T; ++i) {
    const int32_t label = labels_.data<int32_t>()[i];
    if (label < 0) continue;
    Vector x(V, 0.0), s(V), u(V), gradient(V, 0.0), slope, every;
    for (int64_t v = 0; v < V; ++v) {
      for (int64_t j = 0; j < d; ++j)
        x[v] += double(hidden_.f32()[i * d + j]) * head_.var.value().f32()[v * d + j];
      s[v] = x[v] / t, u[v] = teacher_.f32()[i * V + v] / t;
    }
    const Vector p = softmax(s, c.shared), q = softmax(u, c.shared), all = softmax(x, V);
    // The class of each column: the k most probable of the teacher's by
    // themselves, then the rest.
    std::vector<int64_t> order(c.shared), of(c.shared, c.k);
    for (int64_t v = 0; v < c.shared; ++v) order[v] = v;
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return q[a] > q[b]; });
    for (int64_t j = 0; j < c.k; ++j) of[order[j]] = j;
    Vector P(c.k + 1, 0.0), Q(c.k + 1, 0.0);
    for (int64_t v = 0; v < c.shared; ++v) P[of[v]] += p[v], Q[of[v]] += q[v];
    const double D = divergence(Q, P, c.options.beta, slope);
    double mean = 0;
    for (int64_t j = 0; j <= c.k; ++j) mean += P[j] * slope[j];
    for (int64_t v = 0; v < c.shared; ++v)  // dD / ds_v = p_v (dD/dP of its class - sum P dD/dP)
      gradient[v] += (1 - share) * t * p[v] * (slope[of[v]] - mean) / loss_tokens;
    for (int64_t v = 0; v < V; ++v) gradient[v] += share * (all[v] - (v == label ? 1 : 0)) / loss_tokens;
    total += t * t * D;
    whole += t * t *
             divergence({q.begin(), q.begin() + c.shared}, {p.begin(), p.begin() + c.shared}, c.options.beta,
                        every);
    loss += ((1 - share) * t * t * D - share * std::log(all[label])) / loss_tokens;
    for (int64_t v = 0; v < V; ++v)
      for (int64_t j = 0; j < d; ++j) {
        dh[i][j] += gradient[v] * head_.var.value().f32()[v * d + j];
        dw[v][j] += gradient[v] * hidden_.f32()[i * d + j];
      }
  }
  Tape tape;
  const Var hidden(hidden_, true);
  const Tensor totals = Tensor::zeros({3}, DType::f64);
  const Var found =
      vocabulary_loss(tape, Comm(), hidden, &head_, labels_, distribution(), c.options, loss_tokens, totals);
  found.set_grad(Tensor::from<float>({1.0f}, {1}));
  tape.backward();
  EXPECT_NEAR(totals.data<double>()[0], total, 1e-6 * total + 1e-9);
  EXPECT_LT(total, whole * (1 + 1e-9));  // a lower bound
  if (c.k + 1 == c.shared) {
    EXPECT_NEAR(total, whole, 1e-9 * whole);
  }
  EXPECT_NEAR(found.value().data<double>()[0], loss, 1e-6 * std::abs(loss));
  expect_near(hidden.grad(), dh, "gradient of the hidden state");
  expect_near(head_.var.grad(), dw, "gradient of the output matrix");
}

INSTANTIATE_TEST_SUITE_P(
    Cases, TopKLoss,
    testing::Values(
        Case{"kl", {.chunk_tokens = 100}, 5, 40}, Case{"kl_of_one_token", {}, 1, 40},
        Case{"kl_of_all", {.temperature = 2}, 39, 40},
        Case{"kl_of_fewer_columns", {.temperature = 2, .ce_weight = 0.3f, .chunk_tokens = 3}, 7, 29},
        Case{"kl_of_a_sharp_student", {.chunk_tokens = 4}, 6, 40, 4},
        Case{"reverse_kl", {.temperature = 0.7f, .beta = 1, .chunk_tokens = 4}, 5, 40},
        Case{"jsd", {.temperature = 1.5f, .ce_weight = 0.2f, .beta = 0.3, .chunk_tokens = 4}, 8, 33}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace wuneng::top_k_loss_test
