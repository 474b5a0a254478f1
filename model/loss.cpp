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

// [T] f32 each: what a token's gradients are multiplied with; 0 where it has no label.
struct Scales {
  Tensor kl, ce;

  Scales(const Tensor& labels, const LossOptions& options, double divisor, Device device) {
    std::vector<float> k(labels.numel()), c(k.size());
    for (size_t t = 0; t < k.size(); ++t) {
      const float weight = labels.data<int32_t>()[t] < 0 ? 0.0f : static_cast<float>(1 / divisor);
      k[t] = (1 - options.ce_share) * options.temperature * weight;  // t^2 / t
      c[t] = options.ce_share * weight;
    }
    kl = Tensor::from(k, labels.shape()).to(device);
    ce = Tensor::from(c, labels.shape()).to(device);
  }
};

Tensor lowest(const Shape& shape, Device device) {
  const std::vector<float> values(element_count(shape), -std::numeric_limits<float>::infinity());
  return Tensor::from(values, shape).to(device);
}

class FusedLoss {
 public:
  FusedLoss(const Stream& stream, const Comm& tp, const Parameter* head,
            const std::vector<TeacherSlice>& slices, const LossOptions& options)
      : stream_(stream), tp_(tp), head_(head), slices_(slices), options_(options) {}

  // The chunk's sums [5, C] f64, over all ranks: { sum e^s, sum e^u, sum e^u (u - s) } of the KL, { sum e^x,
  // x of the label } of the cross entropy. Writes the logits' gradient into `gradient` [C, V] where that is
  // defined; `weight` [T] is each token's part of the loss.
  Tensor chunk(const Chunk& at, const Tensor& logits, const Tensor& labels, const Scales& scales,
               const Tensor& gradient) const {
    const int64_t C = at.count, V = logits.dim(1);
    const float inverse = 1 / options_.temperature;
    // Maxima of { student / t over shared columns, teacher / t, student over all columns }, then sums.
    const Tensor maxima = lowest({3, C}, logits.device()),
                 sums = Tensor::zeros({5, C}, DType::f64, logits.device());
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
    if (!gradient.defined()) return sums;

    cross_entropy_gradient(stream_, {.logits = logits,
                                     .labels = labels,
                                     .begin = head_->held.begin,
                                     .maximum = ce_max,
                                     .sums = ce_part,
                                     .scale = scales.ce.rows(at.begin, at.begin + C),
                                     .gradient = gradient});
    for (const TeacherSlice& s : slices_)
      kl_gradient(stream_, {.student = logits,
                            .teacher = columns(s, at),
                            .inverse_temperature = inverse,
                            .student_max = student_max,
                            .teacher_max = teacher_max,
                            .sums = kl_part,
                            .scale = scales.kl.rows(at.begin, at.begin + C),
                            .gradient = gradient});
    return sums;
  }

  // Adds a chunk's sums, on the host, to the losses of the tokens that count.
  void add(const Chunk& at, const Tensor& sums, const int32_t* labels, LossSums& out) const {
    const int64_t C = at.count;
    const double t2 = double(options_.temperature) * options_.temperature;
    const double *es = sums.data<double>(), *et = es + C, *cross = es + 2 * C, *ee = es + 3 * C,
                 *hit = es + 4 * C;
    for (int64_t i = 0; i < C; ++i) {
      if (labels[at.begin + i] < 0) continue;
      // KL = sum p_t (log p_t - log p_s) = (sum e^u (u - s)) / sum e^u - log sum e^u + log sum e^s
      if (options_.ce_share < 1) out.kl += t2 * (cross[i] / et[i] - std::log(et[i]) + std::log(es[i]));
      out.ce += std::log(ee[i]) - hit[i];
      ++out.tokens;
    }
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
  const Device device = tape.stream().device;
  const Tensor here = labels.to(device);
  const Scales scales(labels, options, divisor, device);
  const FusedLoss loss(tape.stream(), tp, head, slices, options);
  // Gradients have the hidden state's type; logits, of which exponentials are summed, are f32.
  const auto fresh = [&](Shape shape, DType type) { return Tensor::empty(std::move(shape), type, device); };
  const DType narrow = hidden.value().dtype();
  const Tensor dhidden = wanted ? fresh({T, d}, narrow) : Tensor();
  const int64_t size = std::min(options.chunk_tokens, T);
  const Tensor logits = fresh({size, V}, DType::f32), gradient = wanted ? fresh({size, V}, narrow) : Tensor();
  std::vector<std::pair<Chunk, Tensor>> chunks;  // with their sums, read when all chunks are on their way
  for (int64_t begin = 0; begin < T; begin += size) {
    const int64_t count = std::min(size, T - begin);
    const Tensor h = hidden.value().rows(begin, begin + count), x = logits.rows(0, count),
                 g = wanted ? gradient.rows(0, count) : Tensor();
    matmul(tape.stream(), {.a = h, .b = head->var.value(), .c = x, .transpose_b = true});
    const Chunk chunk{begin, count};
    chunks.emplace_back(chunk, loss.chunk(chunk, x, here.rows(begin, begin + count), scales, g));
    if (!wanted) continue;
    matmul(tape.stream(), {.a = g, .b = head->var.value(), .c = dhidden.rows(begin, begin + count)});
    if (head->var.needs_grad())
      matmul(tape.stream(), {.a = g,
                             .b = h,
                             .c = head->var.grad_buffer(),
                             .transpose_a = true,
                             .accumulate = 1,
                             .like = head->var.value().dtype()});
  }
  LossSums mine;
  for (const auto& [chunk, found] : chunks) loss.add(chunk, found.to(Device{}), labels.data<int32_t>(), mine);
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
