// A teacher in the student's last-stage processes, cut over the same tensor-parallel ranks.
#pragma once
#include "launch/training_data.h"
#include "model/hugging_face.h"
#include "parallel/stream.h"

namespace wuneng {

class InProcessTeacher : public TeacherSource {
 public:
  InProcessTeacher(const TrainRecipe& recipe, const Mesh& mesh, const TrainingData& data)
      : data_(data),
        mesh_(mesh),
        shared_(std::min(recipe.student.vocab_size, recipe.teacher->vocab_size)),
        model_(*recipe.teacher, Shard{mesh.tp}, recipe.teacher_dtype) {
    load_hugging_face(model_, recipe.teacher_path, 0);
  }

  std::vector<TeacherSlice> take(int64_t round, int micro_batch) override {
    Tape silent({}, false);
    const MicroBatch batch = data_.micro_batch(data_.rounds()[round], micro_batch, mesh_.dp_rank);
    const Tensor logits = model_.logits({}, model_.forward(silent, batch, {}).value());
    const Range held = model_.head()->held;
    const int64_t count = std::min(held.end, shared_) - held.begin;
    if (count == held.size()) return {{held, logits}};
    const Tensor shared = Tensor::empty({logits.dim(0), count});
    for (int64_t t = 0; t < logits.dim(0); ++t)
      shared.rows(t, t + 1).view({count}).copy_from(
          logits.rows(t, t + 1).view({logits.dim(1)}).rows(0, count));
    return {{{held.begin, held.begin + count}, shared}};
  }
  void release() override {}

 private:
  const TrainingData& data_;
  Mesh mesh_;
  int64_t shared_;
  Decoder model_;
};

}  // namespace wuneng
