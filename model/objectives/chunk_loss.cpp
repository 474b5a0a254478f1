#include "model/objectives/chunk_loss.h"

#include <utility>

#include "kernels/top_k_loss.h"

namespace wuneng {
namespace {

using namespace kernels;

class FullChunkLoss : public ChunkLoss {
 public:
  FullChunkLoss(const Stream& stream, const LossOptions& options, const LossInputs& in)
      : ChunkLoss(stream, options, in) {
    loss_statistics(stream_, {.in = in_, .maxima = maxima_, .sums = sums_});
  }

  void reduce(const Comm& tp) override {
    reduce_statistics(tp);
    if (options_.beta == 0 || !has_divergence()) return;
    divergence_ = {static_cast<float>(options_.beta), fresh({2, tokens()}, DType::f64)};
    loss_divergence(stream_, {.in = in_, .maxima = maxima_, .sums = sums_, .divergence = divergence_});
    tp.all_reduce(divergence_.sums, Reduce::sum, "loss: divergence");
  }

  void gradient(const Tensor& kl_scale, const Tensor& ce_scale, const Tensor& out) const override {
    loss_gradient(stream_, {.in = in_,
                            .maxima = maxima_,
                            .sums = sums_,
                            .kl_scale = kl_scale,
                            .ce_scale = ce_scale,
                            .gradient = out,
                            .divergence = divergence_});
  }
};

class TopKChunkLoss : public ChunkLoss {
 public:
  TopKChunkLoss(const Stream& stream, const LossOptions& options, const LossInputs& in, const Tensor& ids,
                const Tensor& logprobs, int64_t shared)
      : ChunkLoss(stream, options, in),
        columns_{ids, shared},
        logprobs_(logprobs),
        chosen_(fresh(ids.shape(), DType::f32)) {
    top_k_statistics(stream_,
                     {.in = in_, .columns = columns_, .maxima = maxima_, .sums = sums_, .chosen = chosen_});
  }

  void reduce(const Comm& tp) override {
    reduce_statistics(tp);
    tp.all_reduce(chosen_, Reduce::sum, "loss: logits of the teacher's most probable tokens");
    // loss_totals takes the second of two sums, which is the divergence.
    divergence_ = {1, Tensor::zeros({2, tokens()}, DType::f64, stream_.device)};
    slopes_ = fresh(logprobs_.shape(), DType::f32);
    top_k_divergence(stream_, {.maxima = maxima_,
                               .sums = sums_,
                               .chosen = chosen_,
                               .teacher = logprobs_,
                               .inverse_temperature = in_.inverse_temperature,
                               .beta = static_cast<float>(options_.beta),
                               .divergence = divergence_.sums.rows(1, 2),
                               .slopes = slopes_});
  }

  void gradient(const Tensor& kl_scale, const Tensor& ce_scale, const Tensor& out) const override {
    top_k_gradient(stream_, {.in = in_,
                             .columns = columns_,
                             .maxima = maxima_,
                             .sums = sums_,
                             .chosen = chosen_,
                             .slopes = slopes_,
                             .kl_scale = kl_scale,
                             .ce_scale = ce_scale,
                             .gradient = out});
  }

 private:
  TopKColumns columns_;
  Tensor logprobs_, chosen_, slopes_;
};

}  // namespace

ChunkLoss::ChunkLoss(const Stream& stream, const LossOptions& options, LossInputs in)
    : stream_(stream),
      options_(options),
      in_(std::move(in)),
      maxima_(fresh({3, tokens()}, DType::f32)),
      sums_(fresh({5, tokens()}, DType::f64)) {}

Tensor ChunkLoss::fresh(Shape shape, DType dtype) const {
  return Tensor::empty(std::move(shape), dtype, stream_.device);
}

void ChunkLoss::reduce_statistics(const Comm& tp) {
  if (tp.size() == 1) return;
  const Tensor mine = std::exchange(maxima_, maxima_.clone());
  tp.all_reduce(maxima_, Reduce::max, "loss: largest logits");
  loss_rebase(stream_, {.from = mine, .to = maxima_, .sums = sums_});
  tp.all_reduce(sums_, Reduce::sum, "loss: sums of exponentials");
}

void ChunkLoss::add_to(const Tensor& totals, const Tensor& loss, double loss_tokens) const {
  loss_totals(stream_, {.maxima = maxima_,
                        .sums = sums_,
                        .labels = in_.labels,
                        .temperature = options_.temperature,
                        .ce_weight = options_.ce_weight,
                        .loss_tokens = loss_tokens,
                        .totals = totals,
                        .loss = loss,
                        .divergence = divergence_});
}

std::unique_ptr<ChunkLoss> make_full_chunk_loss(const Stream& stream, const LossOptions& options,
                                                const LossInputs& in) {
  return std::make_unique<FullChunkLoss>(stream, options, in);
}

std::unique_ptr<ChunkLoss> make_top_k_chunk_loss(const Stream& stream, const LossOptions& options,
                                                 const LossInputs& in, const Tensor& ids,
                                                 const Tensor& logprobs, int64_t shared) {
  return std::make_unique<TopKChunkLoss>(stream, options, in, ids, logprobs, shared);
}

}  // namespace wuneng
