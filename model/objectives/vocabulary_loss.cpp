#include "model/objectives/vocabulary_loss.h"

#include <algorithm>

#include "kernels/matmul.h"
#include "model/objectives/chunk_loss.h"

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

}  // namespace

std::vector<std::string> vocabulary_loss_sums() { return {"divergence", "ce", "tokens"}; }

Var vocabulary_loss(Tape& tape, const Comm& tp, const Var& hidden, const Parameter* head,
                    const Tensor& labels, const TeacherDistribution& teacher, const LossOptions& options,
                    double loss_tokens, const Tensor& sums) {
  const int64_t T = hidden.dim(0), d = hidden.dim(1), V = head->var.dim(0);
  TeacherLogits teacher_logits(teacher, head->held, T);
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
    const LossInputs in{.logits = logits.rows(0, count),
                        .teacher = teacher_logits.chunk(tape.stream(), begin, end),
                        .inverse_temperature = 1 / options.temperature,
                        .labels = labels_here.rows(begin, end),
                        .begin = head->held.begin};
    matmul(tape.stream(), {.a = h, .b = head->var.value(), .c = in.logits, .transpose_b = true});
    const std::unique_ptr<ChunkLoss> chunk =
        teacher.ids.defined()
            ? make_top_k_chunk_loss(tape.stream(), options, in, teacher.ids.rows(begin, end),
                                    teacher.logprobs.rows(begin, end),
                                    head->held.common({0, teacher.shared}).size())
            : make_full_chunk_loss(tape.stream(), options, in);
    chunk->reduce(tp);
    chunk->add_to(sums, loss, loss_tokens);
    if (!wanted) continue;
    chunk->gradient(scales.kl.rows(begin, end), scales.ce.rows(begin, end), g);
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
