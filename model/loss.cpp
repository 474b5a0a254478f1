#include "model/loss.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/loss.h"
#include "kernels/matmul.h"

namespace wuneng {
namespace {

using namespace kernels;

// One chunk of tokens: [C] rows from `begin` on.
struct Chunk {
  int64_t begin, count;
};

class FusedLoss {
 public:
  FusedLoss(const Stream& stream, const Comm& tp, const Parameter* head,
            const std::vector<TeacherSlice>& slices, const LossOptions& options)
      : stream_(stream), tp_(tp), head_(head), slices_(slices), options_(options) {}

  // Adds the chunk's sums; writes the logits' gradient into `gradient` [C, V] where that is defined.
  void chunk(const Chunk& at, const Tensor& logits, const Tensor& labels, const std::vector<float>& weight,
             const Tensor& gradient, LossSums& out) const {
    const int64_t C = at.count, V = logits.dim(1);
    const float inverse = 1 / options_.temperature;
    const bool kl = options_.ce_share < 1;
    // Maxima of { student / t over shared columns, teacher / t, student over all columns }, then sums.
    const Tensor maxima = Tensor::empty({3, C}), sums = Tensor::zeros({5, C}, DType::f64);
    std::fill_n(maxima.f32(), 3 * C, -std::numeric_limits<float>::infinity());
    const auto row = [&](const Tensor& t, int64_t i) { return t.rows(i, i + 1).view({C}); };
    const Tensor student_max = row(maxima, 0), teacher_max = row(maxima, 1), ce_max = row(maxima, 2);
    for (const TeacherSlice& s : slices_) {
      logit_max(stream_, {.logits = logits,
                          .first = local(s),
                          .count = s.columns.size(),
                          .inverse_temperature = inverse,
                          .maximum = student_max});
      logit_max(stream_, {.logits = s.logits,
                          .row = at.begin,
                          .count = s.columns.size(),
                          .inverse_temperature = inverse,
                          .maximum = teacher_max});
    }
    logit_max(stream_, {.logits = logits, .count = V, .maximum = ce_max});
    tp_.all_reduce(maxima, Reduce::max, "loss: largest logits");

    const Tensor kl_part = sums.rows(0, 3), ce_part = sums.rows(3, 5);
    for (const TeacherSlice& s : slices_)
      wuneng::kernels::kl_sums(stream_, {.student = logits,
                                         .teacher = columns(s, at),
                                         .inverse_temperature = inverse,
                                         .student_max = student_max,
                                         .teacher_max = teacher_max,
                                         .sums = kl_part});
    cross_entropy_sums(
        stream_,
        {.logits = logits, .labels = labels, .begin = head_->held.begin, .maximum = ce_max, .sums = ce_part});
    tp_.all_reduce(sums, Reduce::sum, "loss: sums of exponentials");

    const double t2 = double(options_.temperature) * options_.temperature;
    const double *es = sums.data<double>(), *et = es + C, *cross = es + 2 * C, *ee = es + 3 * C,
                 *hit = es + 4 * C;
    for (int64_t i = 0; i < C; ++i) {
      if (weight[at.begin + i] == 0) continue;
      // KL = sum p_t (log p_t - log p_s) = (sum e^u (u - s)) / sum e^u - log sum e^u + log sum e^s
      if (kl) out.kl += t2 * (cross[i] / et[i] - std::log(et[i]) + std::log(es[i]));
      out.ce += std::log(ee[i]) - hit[i];
    }
    if (!gradient.defined()) return;
    const Tensor ce_scale = Tensor::empty({C}), kl_scale = Tensor::empty({C});
    for (int64_t i = 0; i < C; ++i) {
      ce_scale.f32()[i] = options_.ce_share * weight[at.begin + i];
      kl_scale.f32()[i] = (1 - options_.ce_share) * options_.temperature * weight[at.begin + i];  // t^2 / t
    }
    cross_entropy_gradient(stream_, {.logits = logits,
                                     .labels = labels,
                                     .begin = head_->held.begin,
                                     .maximum = ce_max,
                                     .sums = ce_part,
                                     .scale = ce_scale,
                                     .gradient = gradient});
    for (const TeacherSlice& s : slices_)
      kl_gradient(stream_, {.student = logits,
                            .teacher = columns(s, at),
                            .inverse_temperature = inverse,
                            .student_max = student_max,
                            .teacher_max = teacher_max,
                            .sums = kl_part,
                            .scale = kl_scale,
                            .gradient = gradient});
  }

 private:
  int64_t local(const TeacherSlice& s) const { return s.columns.begin - head_->held.begin; }
  TeacherColumns columns(const TeacherSlice& s, const Chunk& at) const {
    return {s.logits, at.begin, local(s)};
  }

  Stream stream_;
  const Comm& tp_;
  const Parameter* head_;
  const std::vector<TeacherSlice>& slices_;
  LossOptions options_;
};

}  // namespace

Var distillation_loss(Tape& tape, const Comm& tp, const Var& hidden, const Parameter* head,
                      const Tensor& labels, const std::vector<TeacherSlice>& slices,
                      const LossOptions& options, double divisor, LossSums& sums) {
  const int64_t T = hidden.dim(0), d = hidden.dim(1), V = head->var.dim(0);
  for (const TeacherSlice& s : slices)
    require(
        s.columns.begin >= head->held.begin && s.columns.end <= head->held.end && s.logits.dim(0) == T &&
            s.logits.dim(1) == s.columns.size(),
        "teacher slice of columns {}..{} and shape {}: expected {} rows inside the student's columns {}..{}",
        s.columns.begin, s.columns.end, to_string(s.logits.shape()), T, head->held.begin, head->held.end);
  const bool wanted = tape.recording() && (hidden.needs_grad() || head->var.needs_grad());
  std::vector<float> weight(T);
  LossSums mine;
  for (int64_t t = 0; t < T; ++t) {
    const bool counts = labels.data<int32_t>()[t] >= 0;
    weight[t] = counts ? static_cast<float>(1 / divisor) : 0.0f;
    mine.tokens += counts;
  }
  const FusedLoss loss(tape.stream(), tp, head, slices, options);
  const Tensor dhidden = wanted ? Tensor::empty({T, d}) : Tensor();
  const int64_t size = std::min(options.chunk_tokens, T);
  const Tensor logits = Tensor::empty({size, V}), gradient = wanted ? Tensor::empty({size, V}) : Tensor();
  for (int64_t begin = 0; begin < T; begin += size) {
    const int64_t count = std::min(size, T - begin);
    const Tensor h = hidden.value().rows(begin, begin + count), x = logits.rows(0, count),
                 g = wanted ? gradient.rows(0, count) : Tensor();
    matmul(tape.stream(), {.a = h, .b = head->var.value(), .c = x, .transpose_b = true});
    loss.chunk({begin, count}, x, labels.rows(begin, begin + count), weight, g, mine);
    if (!wanted) continue;
    matmul(tape.stream(), {.a = g, .b = head->var.value(), .c = dhidden.rows(begin, begin + count)});
    if (head->var.needs_grad())
      matmul(tape.stream(),
             {.a = g, .b = h, .c = head->var.grad_buffer(), .transpose_a = true, .accumulate = 1});
  }
  sums.kl += mine.kl;
  sums.ce += mine.ce;
  sums.tokens += mine.tokens;
  const Var out = tape.output(
      Tensor::from<float>(
          {static_cast<float>(((1 - options.ce_share) * mine.kl + options.ce_share * mine.ce) / divisor)},
          {1}),
      wanted);
  tape.record(out, [=] {
    WUNENG_ASSERT(out.grad().f32()[0] == 1.0f);  // gradients were formed with the loss
    if (!hidden.needs_grad()) return;
    tp.all_reduce(dhidden, Reduce::sum, "loss: gradient of the hidden state");
    hidden.add_grad(dhidden);
  });
  return out;
}

}  // namespace wuneng
