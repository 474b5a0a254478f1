#include "model/objectives/label_logprobs.h"

#include <algorithm>

#include "kernels/label_logprob.h"
#include "kernels/loss.h"
#include "kernels/matmul.h"
#include "kernels/rows.h"

namespace wuneng {
namespace {

std::vector<kernels::RowRun> runs_of(const std::vector<int64_t>& rows) {
  std::vector<kernels::RowRun> out;
  for (const int64_t row : rows)
    if (!out.empty() && out.back().begin + out.back().count == row)
      ++out.back().count;
    else
      out.push_back({row, 1});
  return out;
}

}  // namespace

std::vector<int64_t> labelled_rows(const Tensor& labels) {
  std::vector<int64_t> out;
  for (int64_t t = 0; t < labels.numel(); ++t)
    if (labels.data<int32_t>()[t] >= 0) out.push_back(t);
  return out;
}

LabelLogprobs::LabelLogprobs(const Stream& stream, const Comm& tp, const Tensor& hidden,
                             const Parameter* head, const Tensor& labels, int64_t chunk_tokens)
    : stream_(stream),
      tp_(tp),
      head_(head),
      shape_(hidden.shape()),
      rows_(labelled_rows(labels)),
      chunk_rows_(chunk_tokens > 0                         ? chunk_tokens
                  : stream.device.kind == DeviceKind::cuda ? 1024
                                                           : 128) {
  const int64_t N = static_cast<int64_t>(rows_.size()), V = head->var.dim(0);
  const Device device = stream.device;
  std::vector<int32_t> chosen;
  for (const int64_t row : rows_) chosen.push_back(labels.data<int32_t>()[row]);
  labels_ = Tensor::from(chosen, {N}).to(device);
  hidden_ = Tensor::empty({N, shape_[1]}, hidden.dtype(), device);
  values_ = Tensor::empty({N}, DType::f64, device);
  if (N == 0) return;
  kernels::pack_rows(stream, {.tall = hidden, .packed = hidden_, .runs = runs_of(rows_)});
  const Tensor buffer = Tensor::empty({std::min(chunk_rows_, N), V}, DType::f32, device);
  for (int64_t begin = 0; begin < N; begin += chunk_rows_) {
    const int64_t end = std::min(begin + chunk_rows_, N), C = end - begin;
    Chunk chunk{begin, end, Tensor::empty({3, C}, DType::f32, device),
                Tensor::empty({5, C}, DType::f64, device)};
    kernels::loss_statistics(stream, {.in = {.logits = logits_of(chunk, buffer),
                                             .teacher = {},
                                             .labels = labels_.rows(begin, end),
                                             .begin = head->held.begin},
                                      .maxima = chunk.maxima,
                                      .sums = chunk.sums});
    if (tp.size() > 1) {
      const Tensor mine = chunk.maxima.clone();
      tp.all_reduce(chunk.maxima, Reduce::max, "label log-probabilities: largest logits");
      kernels::loss_rebase(stream, {.from = mine, .to = chunk.maxima, .sums = chunk.sums});
      tp.all_reduce(chunk.sums, Reduce::sum, "label log-probabilities: sums of exponentials");
    }
    kernels::label_logprob(stream,
                           {.maxima = chunk.maxima, .sums = chunk.sums, .out = values_.rows(begin, end)});
    chunks_.push_back(std::move(chunk));
  }
}

// [C, local vocabulary], in `buffer`.
Tensor LabelLogprobs::logits_of(const Chunk& chunk, const Tensor& buffer) const {
  const Tensor logits = buffer.rows(0, chunk.end - chunk.begin);
  kernels::matmul(
      stream_,
      {.a = hidden_.rows(chunk.begin, chunk.end), .b = head_->var.value(), .c = logits, .transpose_b = true});
  return logits;
}

Tensor LabelLogprobs::backward(const std::vector<float>& coefficients) const {
  const int64_t N = static_cast<int64_t>(rows_.size()), V = head_->var.dim(0);
  WUNENG_ASSERT(static_cast<int64_t>(coefficients.size()) == N);
  const Device device = stream_.device;
  const DType narrow = hidden_.dtype();
  const Tensor out = Tensor::zeros(shape_, narrow, device);
  if (N == 0) return out;
  // loss_gradient gives the gradient of -log p(label), times a scale.
  std::vector<float> negated(coefficients);
  for (float& c : negated) c = -c;
  const Tensor scale = Tensor::from(negated, {N}).to(device), none = Tensor::zeros({N}, DType::f32, device);
  const Tensor buffer = Tensor::empty({std::min(chunk_rows_, N), V}, DType::f32, device),
               gradients = narrow == DType::f32 ? buffer : Tensor::empty(buffer.shape(), narrow, device),
               dhidden = Tensor::empty(hidden_.shape(), narrow, device);
  for (const Chunk& chunk : chunks_) {
    const int64_t begin = chunk.begin, end = chunk.end;
    const Tensor g = gradients.rows(0, end - begin);
    kernels::loss_gradient(stream_, {.in = {.logits = logits_of(chunk, buffer),
                                            .teacher = {},
                                            .labels = labels_.rows(begin, end),
                                            .begin = head_->held.begin},
                                     .maxima = chunk.maxima,
                                     .sums = chunk.sums,
                                     .kl_scale = none.rows(begin, end),
                                     .ce_scale = scale.rows(begin, end),
                                     .gradient = g});
    kernels::matmul(stream_, {.a = g, .b = head_->var.value(), .c = dhidden.rows(begin, end)});
    if (head_->var.needs_grad())
      kernels::matmul(stream_, {.a = g,
                                .b = hidden_.rows(begin, end),
                                .c = head_->var.grad_buffer(),
                                .transpose_a = true,
                                .accumulate = 1,
                                .like = head_->var.value().dtype()});
  }
  tp_.all_reduce(dhidden, Reduce::sum, "label log-probabilities: gradient of the hidden state");
  kernels::unpack_rows(stream_, {.tall = out, .packed = dhidden, .runs = runs_of(rows_)});
  return out;
}

}  // namespace wuneng
