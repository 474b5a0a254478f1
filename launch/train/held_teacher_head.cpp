#include "launch/train/held_teacher_head.h"

#include "launch/train/checkpoint_weights.h"
#include "model/teacher_head.h"

namespace wuneng {

HeldTeacherHead teacher_head(const TrainRecipe& r, const ModelChunks& model, const Parameter* colocated) {
  HeldTeacherHead out;
  for (int chunk = 0; chunk < model.size(); ++chunk) {
    const Parameter* student = model[chunk].head();
    if (!student) continue;
    const Range columns = shared_columns(student->held, *r.teacher);
    if (colocated && columns.size() > 0 && columns == columns.common(colocated->held)) {
      out.rows = rows_of_head(*colocated, columns);
      continue;
    }
    out.rows = model.device().dry ? empty_teacher_head(*r.teacher, columns, r.teacher_dtype, model.device())
                                  : load_teacher_head(*open_weights(r.teacher_path), columns, r.teacher_dtype,
                                                      model.device());
    out.bytes = out.rows->var.value().bytes();
  }
  return out;
}

}  // namespace wuneng
