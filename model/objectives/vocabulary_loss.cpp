#include "model/objectives/vocabulary_loss.h"

#include <algorithm>
#include <utility>

#include "kernels/loss.h"
#include "kernels/matmul.h"

namespace wuneng {
namespace {

using namespace kernels;

// A chunk costs a pass over the output matrix and two over its f32 gradient, whatever its size. On a GPU
// these take as long as the products of some 500 tokens; on the CPU a chunk's logits should stay in its
// cache.
int64_t chunk_size(const LossOptions& options, int64_t T, Device device) {
  const int64_t suits = device.kind == DeviceKind::cuda ? 2048 : 128;
  return std::min(options.chunk_tokens > 0 ? options.chunk_tokens : suits, T);
}

// [T] f32 each: what a token's gradients are multiplied with; 0 where it has no label.
struct Scales {
  Tensor kl, ce;

  Scales(const Tensor& labels, const LossOptions& options, double loss_tokens, Device device) {
    std::vector<float> k(labels.numel()), c(k.size());
    for (size_t t = 0; t < k.size(); ++t) {
      const float weight = labels.data<int32_t>()[t] < 0 ? 0.0f : static_cast<float>(1 / loss_tokens);
      k[t] = (1 - options.ce_weight) * options.temperature * weight;  // t^2 / t
      c[t] = options.ce_weight * weight;
    }
    kl = Tensor::from(k, labels.shape()).to(device);
    ce = Tensor::from(c, labels.shape()).to(device);
  }
};

// One chunk's logits, with the statistics of all ranks once reduce() is done.
class ChunkLoss {
 public:
  ChunkLoss(const Stream& stream, LossInputs in) : stream_(stream), in_(std::move(in)) {
    const int64_t C = in_.logits.dim(0);
    maxima_ = Tensor::empty({3, C}, DType::f32, in_.logits.device());
    sums_ = Tensor::empty({5, C}, DType::f64, in_.logits.device());
    loss_statistics(stream_, {.in = in_, .maxima = maxima_, .sums = sums_});
  }

  void reduce(const Comm& tp) {
    if (tp.size() == 1) return;
    const Tensor mine = std::exchange(maxima_, maxima_.clone());
    tp.all_reduce(maxima_, Reduce::max, "loss: largest logits");
    loss_rebase(stream_, {.from = mine, .to = maxima_, .sums = sums_});
    tp.all_reduce(sums_, Reduce::sum, "loss: sums of exponentials");
  }

  // After reduce(): what a divergence other than KL(teacher || student) needs.
  void form_divergence(const Comm& tp, float beta) {
    divergence_.beta = beta;
    divergence_.sums = Tensor::empty({2, in_.logits.dim(0)}, DType::f64, in_.logits.device());
    loss_divergence(stream_, {.in = in_, .maxima = maxima_, .sums = sums_, .divergence = divergence_});
    tp.all_reduce(divergence_.sums, Reduce::sum, "loss: divergence");
  }

  void add_to(const Tensor& totals, const Tensor& loss, const LossOptions& options,
              double loss_tokens) const {
    loss_totals(stream_, {.maxima = maxima_,
                          .sums = sums_,
                          .labels = in_.labels,
                          .temperature = options.temperature,
                          .ce_weight = options.ce_weight,
                          .loss_tokens = loss_tokens,
                          .totals = totals,
                          .loss = loss,
                          .divergence = divergence_});
  }

  void gradient(const Tensor& kl_scale, const Tensor& ce_scale, const Tensor& out) const {
    loss_gradient(stream_, {.in = in_,
                            .maxima = maxima_,
                            .sums = sums_,
                            .kl_scale = kl_scale,
                            .ce_scale = ce_scale,
                            .gradient = out,
                            .divergence = divergence_});
  }

 private:
  Stream stream_;
  LossInputs in_;
  Tensor maxima_, sums_;
  Divergence divergence_;
};

// The teacher's logits in order of their columns; an error where one lies outside the head's.
std::vector<SignalPart> in_order(std::vector<SignalPart> parts, const Parameter* head, int64_t T) {
  for (const SignalPart& s : parts)
    require(s.columns.begin >= head->held.begin && s.columns.end <= head->held.end && s.rows == Range{0, T} &&
                s.values.shape() == Shape{T, s.columns.size()},
            "teacher's logits, rows {}..{}, columns {}..{} of shape {}: expected all {} rows inside the "
            "student's columns {}..{}",
            s.rows.begin, s.rows.end, s.columns.begin, s.columns.end, to_string(s.values.shape()), T,
            head->held.begin, head->held.end);
  std::sort(parts.begin(), parts.end(),
            [](const SignalPart& a, const SignalPart& b) { return a.columns.begin < b.columns.begin; });
  return parts;
}

}  // namespace

std::vector<std::string> vocabulary_loss_sums() { return {"divergence", "ce", "tokens"}; }

Var vocabulary_loss(Tape& tape, const Comm& tp, const Var& hidden, const Parameter* head,
                    const Tensor& labels, const std::vector<SignalPart>& teacher, const LossOptions& options,
                    double loss_tokens, const Tensor& sums) {
  const int64_t T = hidden.dim(0), d = hidden.dim(1), V = head->var.dim(0);
  const std::vector<SignalPart> parts = in_order(teacher, head, T);
  const bool wanted = tape.recording() && (hidden.needs_grad() || head->var.needs_grad());
  const Device device = tape.stream().device;
  const Tensor labels_here = labels.to(device);
  const Scales scales(labels, options, loss_tokens, device);
  const Tensor loss = Tensor::zeros({1}, DType::f64, device);
  // Gradients have the hidden state's type; logits, of which exponentials are summed, are f32, or in training
  // bf16 where options say so. Where both have one type a gradient takes its logit's place.
  const DType narrow = hidden.value().dtype(),
              of_logits = wanted && options.bf16_logits ? DType::bf16 : DType::f32;
  require(of_logits == DType::f32 || narrow == DType::bf16,
          "loss.bf16_logits: expected activations in bf16, found {} on {}", to_string(narrow),
          to_string(device));
  const auto fresh = [&](Shape shape, DType type) { return Tensor::empty(std::move(shape), type, device); };
  const int64_t size = chunk_size(options, T, device);
  const Tensor dhidden = wanted ? fresh({T, d}, narrow) : Tensor(), logits = fresh({size, V}, of_logits),
               gradient = !wanted || narrow == of_logits ? logits : fresh({size, V}, narrow);
  for (int64_t begin = 0; begin < T; begin += size) {
    const int64_t end = std::min(begin + size, T), count = end - begin;
    const Tensor h = hidden.value().rows(begin, end), g = gradient.rows(0, count);
    LossInputs in{.logits = logits.rows(0, count),
                  .inverse_temperature = 1 / options.temperature,
                  .labels = labels_here.rows(begin, end),
                  .begin = head->held.begin};
    for (const SignalPart& s : parts)
      in.teacher.push_back({s.values, begin, s.columns.begin - head->held.begin});
    matmul(tape.stream(), {.a = h, .b = head->var.value(), .c = in.logits, .transpose_b = true});
    ChunkLoss chunk(tape.stream(), in);
    chunk.reduce(tp);
    if (options.beta > 0 && options.ce_weight < 1)
      chunk.form_divergence(tp, static_cast<float>(options.beta));
    chunk.add_to(sums, loss, options, loss_tokens);
    if (!wanted) continue;
    chunk.gradient(scales.kl.rows(begin, end), scales.ce.rows(begin, end), g);
    matmul(tape.stream(), {.a = g, .b = head->var.value(), .c = dhidden.rows(begin, end)});
    if (head->var.needs_grad())
      matmul(tape.stream(), {.a = g,
                             .b = h,
                             .c = head->var.grad_buffer(),
                             .transpose_a = true,
                             .accumulate = 1,
                             .like = head->var.value().dtype()});
  }
  const Var out = tape.output(loss, wanted);
  tape.record(out, [=] {
    WUNENG_ASSERT(out.grad().f32()[0] == 1.0f);  // gradients were formed with the loss
    if (!hidden.needs_grad()) return;
    tp.all_reduce(dhidden, Reduce::sum, "loss: gradient of the hidden state");
    hidden.add_grad(dhidden);
  });
  return out;
}

}  // namespace wuneng
