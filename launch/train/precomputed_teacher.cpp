#include "launch/train/precomputed_teacher.h"

#include <algorithm>
#include <cmath>

namespace wuneng {

PrecomputedTeacher::PrecomputedTeacher(const TrainRecipe& r, const Mesh& mesh, const TrainingData& data,
                                       const std::vector<MicroBatch>& batches, Device device)
    : batches_(batches),
      path_(r.precomputed),
      wanted_(mesh.pp_rank == r.virtual_stages().last_stage()),
      device_(device) {
  if (wanted_) values_ = open_logprobs(r, data, false);
}

const SignalParts& PrecomputedTeacher::take(int64_t, int micro_batch) {
  if (!wanted_) return parts_;
  const MicroBatch& batch = batches_[micro_batch];
  const Tensor out = Tensor::zeros({batch.rows(), 1});
  for (const RowOrigin& o : batch.origins) {
    const Tensor& all = values_[o.corpus][index_of(o.held_out ? Split::held_out : Split::train)];
    const float* from = all.f32() + o.row;
    require(std::none_of(from, from + o.rows, [](float x) { return std::isnan(x); }),
            "{}: rows {} to {} of source {}: expected log-probabilities, found none: the file was made with "
            "a smaller data.seq_len, and these pairs were left out",
            path_, o.row, o.row + o.rows, o.corpus);
    std::copy_n(from, o.rows, out.f32() + o.at);
  }
  parts_.expect("label_logprob");
  parts_.add("label_logprob", {{0, batch.rows()}, {0, 1}, out.to(device_)});
  return parts_;
}

}  // namespace wuneng
