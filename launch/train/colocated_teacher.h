// A teacher in the student's last-stage processes, cut over the same tensor-parallel ranks.
#pragma once
#include "launch/train/recipe.h"
#include "model/hugging_face.h"
#include "parallel/mesh.h"
#include "parallel/stream.h"

namespace wuneng {

class InProcessTeacher : public TeacherSource {
 public:
  // round: the micro-batches of the round that the student works on.
  InProcessTeacher(const TrainRecipe& recipe, const Mesh& mesh, const std::vector<MicroBatch>& round,
                   Device device)
      : round_(round),
        shared_(std::min(recipe.student.vocab_size, recipe.teacher->vocab_size)),
        model_(*recipe.teacher,
               Placement{.tp = mesh.tp,
                         .device = device,
                         .activations = recipe.activations_on(device, recipe.teacher_dtype)},
               recipe.teacher_dtype) {
    load_hugging_face(model_, recipe.teacher_path, 0);
  }

  std::vector<TeacherSlice> take(int64_t, int micro_batch) override {
    Tape silent(model_.stream(), false);
    const Var hidden = model_.forward(silent, round_[micro_batch], {});
    const Range held = model_.head()->held, shared = {held.begin, std::min(held.end, shared_)};
    const Tensor logits =
        Tensor::empty({hidden.dim(0), shared.size()}, DType::f32, model_.placement().device);
    model_.logits(hidden.value(), shared, logits);
    return {{shared, logits}};
  }
  void release() override {}

 private:
  const std::vector<MicroBatch>& round_;
  int64_t shared_;
  Decoder model_;
};

}  // namespace wuneng
