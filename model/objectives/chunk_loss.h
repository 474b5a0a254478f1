// The loss of one chunk of tokens, whose logits of this rank's columns are
// there: statistics, which the tensor-parallel ranks reduce, then the sums and
// the gradient of the logits.
#pragma once
#include <memory>

#include "kernels/loss.h"
#include "model/objectives/objective.h"

namespace wuneng {

class ChunkLoss {
 public:
  virtual ~ChunkLoss() = default;

  // Collective over tp: what the loss and its gradient need of all ranks.
  virtual void reduce(const Comm& tp) = 0;
  // Adds to totals [3] f64, the sums of vocabulary_loss_sums, and to loss [1]
  // f64; after reduce().
  void add_to(const Tensor& totals, const Tensor& loss, double loss_tokens) const;
  // [C, V] of the logits, which it may alias; scales [C] f32; after reduce().
  virtual void gradient(const Tensor& kl_scale, const Tensor& ce_scale, const Tensor& out) const = 0;

 protected:
  ChunkLoss(const Stream& stream, const LossOptions& options, kernels::LossInputs in);
  int64_t tokens() const { return in_.logits.dim(0); }
  bool has_divergence() const { return options_.ce_weight < 1; }
  Tensor fresh(Shape shape, DType dtype) const;
  // Makes the statistics of all ranks of this rank's. Collective over tp.
  void reduce_statistics(const Comm& tp);

  Stream stream_;
  LossOptions options_;
  kernels::LossInputs in_;
  Tensor maxima_, sums_;            // kernels::LossStatisticsArgs
  kernels::Divergence divergence_;  // for loss_totals
};

// From the teacher's logits, which `in` has; none: cross entropy alone.
std::unique_ptr<ChunkLoss> make_full_chunk_loss(const Stream& stream, const LossOptions& options,
                                                const kernels::LossInputs& in);
// From its k most probable tokens: ids [C, k] i32, log-probabilities of them
// and of the rest [C, k + 1] f32; columns [0, shared) are those that both
// vocabularies share.
std::unique_ptr<ChunkLoss> make_top_k_chunk_loss(const Stream& stream, const LossOptions& options,
                                                 const kernels::LossInputs& in, const Tensor& ids,
                                                 const Tensor& logprobs, int64_t shared);

}  // namespace wuneng
