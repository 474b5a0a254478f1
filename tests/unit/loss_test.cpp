// The fused losses against a direct implementation in double: losses, and gradients of the hidden state and
// of the output matrix.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "model/objectives/vocabulary_loss.h"
#include "runtime/safetensors.h"
#include "tests/unit/expect_near.h"
#include "tests/unit/golden.h"

namespace wuneng::loss_test {
namespace {

using Matrix = std::vector<std::vector<double>>;

struct Case {
  const char* name;
  LossOptions options;
  std::vector<Range> slices;  // of the teacher's columns; none: no teacher
  DType teacher = DType::f32;
  bool hidden = false;  // the teacher gives its hidden state, and slices[0] are the rows of its matrix here
};
std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }

class Loss : public testing::TestWithParam<Case> {
 protected:
  static constexpr int64_t T = 11, d = 6, V = 40, kBegin = 100;  // this rank's columns: [100, 140)
  static constexpr int64_t D = 9;                                // the teacher's hidden size

  Loss() {
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    const auto fill = [&](const Tensor& t) {
      for (int64_t i = 0; i < t.numel(); ++i) t.f32()[i] = normal(random);
      return t;
    };
    hidden_ = fill(Tensor::empty({T, d}));
    teacher_ = fill(Tensor::empty({T, V})).to(GetParam().teacher).to(DType::f32);
    if (GetParam().hidden) {
      teacher_hidden_ = fill(Tensor::empty({T, D})).to(GetParam().teacher);
      teacher_matrix_ = fill(Tensor::empty({V, D})).to(GetParam().teacher);
      const Tensor h = teacher_hidden_.to(DType::f32), w = teacher_matrix_.to(DType::f32);
      for (int64_t i = 0; i < T * V; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < D; ++j) sum += double(h.f32()[i / V * D + j]) * w.f32()[i % V * D + j];
        teacher_.f32()[i] = static_cast<float>(sum);
      }
    }
    head_.held = head_.owned = {kBegin, kBegin + V};
    head_.var = Var(fill(Tensor::empty({V, d})), true);
    labels_ = Tensor::from<int32_t>({100, 139, -100, 110, 120, 101, -100, 100, 133, 105, 110}, {T});
  }

  // softmax over entries [0, count) of a row, the rest 0, and the log of the denominator.
  static std::pair<std::vector<double>, double> softmax(const std::vector<double>& x, size_t count) {
    double largest = x[0], sum = 0;
    for (size_t c = 0; c < count; ++c) largest = std::max(largest, x[c]);
    std::vector<double> p(x.size(), 0.0);
    for (size_t c = 0; c < count; ++c) sum += p[c] = std::exp(x[c] - largest);
    for (double& y : p) y /= sum;
    return {p, largest + std::log(sum)};
  }

  Tensor hidden_, teacher_, labels_, teacher_hidden_, teacher_matrix_;
  Parameter head_;
};

TEST_P(Loss, AgreesWithThePlainOne) {
  const Case& c = GetParam();
  const double t = c.options.temperature, share = c.options.ce_weight, loss_tokens = 7;
  const size_t shared = c.slices.empty() ? 0 : c.slices.back().end - kBegin;
  TeacherDistribution teacher;
  Parameter rows;
  if (c.hidden) {
    const Range r = c.slices[0];
    rows.held = rows.owned = r;
    rows.var = Var(teacher_matrix_.rows(r.begin - kBegin, r.end - kBegin), false);
    teacher = {.hidden = {{0, T}, {0, D}, teacher_hidden_}, .head = &rows};
  }
  for (const Range& r : c.slices) {
    if (c.hidden) break;
    const Tensor part = Tensor::empty({T, r.size()});
    for (int64_t i = 0; i < T; ++i)
      for (int64_t j = 0; j < r.size(); ++j)
        part.f32()[i * r.size() + j] = teacher_.f32()[i * V + r.begin - kBegin + j];
    teacher.logits.insert(teacher.logits.begin(), {{0, T}, r, part.to(c.teacher)});  // in no order
  }
  // The direct loss.
  Matrix dh(T, std::vector<double>(d, 0.0)), dw(V, std::vector<double>(d, 0.0));
  double kl = 0, ce = 0, loss = 0;
  for (int64_t i = 0; i < T; ++i) {
    const int32_t label = labels_.data<int32_t>()[i];
    if (label < 0) continue;
    std::vector<double> x(V, 0.0), s(V), u(V), gradient(V, 0.0);
    for (int64_t v = 0; v < V; ++v) {
      for (int64_t j = 0; j < d; ++j)
        x[v] += double(hidden_.f32()[i * d + j]) * head_.var.value().f32()[v * d + j];
      s[v] = x[v] / t, u[v] = teacher_.f32()[i * V + v] / t;
    }
    double token_kl = 0;
    if (shared > 0) {
      const auto [p, log_z] = softmax(s, shared);
      const auto [q, log_y] = softmax(u, shared);
      const double beta = c.options.beta;
      std::vector<double> over_m(shared);  // log(p / m)
      double of_teacher = 0, of_student = 0;
      for (size_t v = 0; v < shared; ++v) {
        const double log_p = s[v] - log_z, log_q = u[v] - log_y,
                     log_m = beta == 0   ? log_p
                             : beta == 1 ? log_q
                                         : std::log((1 - beta) * p[v] + beta * q[v]);
        over_m[v] = log_p - log_m;
        of_teacher += q[v] * (log_q - log_m);
        of_student += p[v] * over_m[v];
      }
      token_kl = t * t *
                 (beta == 0   ? of_teacher
                  : beta == 1 ? of_student
                              : beta * of_teacher + (1 - beta) * of_student);
      for (size_t v = 0; v < shared; ++v) {
        const double slope =
            beta == 0 ? p[v] - q[v] : (beta == 1 ? 1 : 1 - beta) * p[v] * (over_m[v] - of_student);
        gradient[v] += (1 - share) * t * slope / loss_tokens;
      }
    }
    const auto [p, log_z] = softmax(x, V);
    for (int64_t v = 0; v < V; ++v)
      gradient[v] += share * (p[v] - (v == label - kBegin ? 1 : 0)) / loss_tokens;
    kl += token_kl, ce += log_z - x[label - kBegin];
    loss += ((1 - share) * token_kl + share * (log_z - x[label - kBegin])) / loss_tokens;
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
      vocabulary_loss(tape, Comm(), hidden, &head_, labels_, teacher, c.options, loss_tokens, totals);
  found.set_grad(Tensor::from<float>({1.0f}, {1}));
  tape.backward();
  const double* const sums = totals.data<double>();
  EXPECT_EQ(sums[2], 9);
  EXPECT_NEAR(sums[0], kl, 1e-6 * std::abs(kl) + 1e-9);
  EXPECT_NEAR(sums[1], ce, 1e-6 * ce);
  EXPECT_NEAR(found.value().data<double>()[0], loss, 1e-6 * std::abs(loss));
  expect_near(hidden.grad(), dh, "gradient of the hidden state");
  expect_near(head_.var.grad(), dw, "gradient of the output matrix");
}

INSTANTIATE_TEST_SUITE_P(
    Cases, Loss,
    testing::Values(
        Case{"cross_entropy", {.ce_weight = 1, .chunk_tokens = 4}, {}},
        Case{"kl", {.chunk_tokens = 100}, {{100, 140}}},
        Case{"kl_of_fewer_columns", {.temperature = 2, .chunk_tokens = 3}, {{100, 117}, {117, 133}}},
        Case{"both", {.temperature = 0.5f, .ce_weight = 0.3f, .chunk_tokens = 4}, {{100, 117}, {117, 139}}},
        Case{"reverse_kl", {.beta = 1, .chunk_tokens = 100}, {{100, 140}}},
        Case{"reverse_kl_of_fewer_columns",
             {.temperature = 2, .ce_weight = 0.3f, .beta = 1, .chunk_tokens = 3},
             {{100, 117}, {117, 133}}},
        Case{"jsd", {.beta = 0.5, .chunk_tokens = 100}, {{100, 140}}},
        Case{"jsd_of_fewer_columns",
             {.temperature = 0.5f, .ce_weight = 0.3f, .beta = 0.9, .chunk_tokens = 4},
             {{100, 117}, {117, 139}}},
        Case{"jsd_near_kl", {.temperature = 3, .beta = 0.1}, {{100, 120}, {120, 140}}, DType::bf16},
        Case{"narrow_teacher", {.ce_weight = 0.1f}, {{100, 120}, {120, 140}}, DType::bf16},
        Case{"hidden", {.ce_weight = 0.2f, .chunk_tokens = 4}, {{100, 140}}, DType::f32, true},
        Case{"hidden_narrow", {.temperature = 2}, {{100, 140}}, DType::bf16, true},
        Case{"hidden_jsd_of_fewer_columns",
             {.temperature = 0.5f, .ce_weight = 0.3f, .beta = 0.4, .chunk_tokens = 3},
             {{100, 129}},
             DType::f32,
             true},
        Case{"hidden_reverse_kl", {.beta = 1, .chunk_tokens = 5}, {{100, 140}}, DType::bf16, true}),
    [](const auto& info) { return std::string(info.param.name); });

// TRL's own numbers (tests/reference/make_divergence_golden.py). With the unit matrix as output matrix the
// hidden state is the logits.
TEST(DivergenceGolden, AgreesWithTrl) {
  const SafetensorsFile file(golden("divergences.safetensors"));
  const Tensor student = file.tensor("student"), teacher = file.tensor("teacher");
  const int64_t T = student.dim(0), V = student.dim(1);
  std::vector<int32_t> labels(T);
  int tokens = 0;
  for (int64_t t = 0; t < T; ++t) {
    labels[t] = static_cast<int32_t>(file.tensor("labels").f32()[t]);
    tokens += labels[t] >= 0;
  }
  Parameter unit;
  unit.held = unit.owned = {0, V};
  unit.var = Var(Tensor::zeros({V, V}), false);
  for (int64_t v = 0; v < V; ++v) unit.var.value().f32()[v * V + v] = 1;
  int cases = 0;
  for (const double beta : {0.0, 0.1, 0.5, 0.9, 1.0})
    for (const double temperature : {0.5, 1.0, 3.0}) {
      const std::string name = fmt::format("beta_{:.1f}.temperature_{:.1f}", beta, temperature);
      SCOPED_TRACE(name);
      Tape tape;
      const Var hidden(student.clone(), true);
      const LossOptions options{.temperature = float(temperature), .beta = beta, .chunk_tokens = 4};
      const Var loss = vocabulary_loss(tape, Comm(), hidden, &unit, Tensor::from<int32_t>(labels, {T}),
                                       {.logits = {{{0, T}, {0, V}, teacher}}}, options, tokens,
                                       Tensor::zeros({3}, DType::f64));
      loss.set_grad(Tensor::from<float>({1.0f}, {1}));
      tape.backward();
      const double square = temperature * temperature;
      const double expected = square * file.tensor(name + ".loss").f32()[0];
      EXPECT_NEAR(loss.value().data<double>()[0], expected, 1e-6 * expected);
      const Tensor gradient = file.tensor(name + ".gradient");
      for (int64_t i = 0; i < T * V; ++i)
        ASSERT_NEAR(hidden.grad().f32()[i], square * gradient.f32()[i], 1e-6 * square) << i;
      ++cases;
    }
  EXPECT_EQ(cases, 15);
}

}  // namespace
}  // namespace wuneng::loss_test
