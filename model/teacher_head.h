// What a student's rank holds of its teacher's output matrix where the teacher sends its final hidden state
// (teacher.signal = "hidden"): the rows of the columns of the vocabulary that this rank shares with it. They
// are frozen: no gradient, no state of an optimizer, nothing in checkpoints.
#pragma once
#include "model/weight_source.h"

namespace wuneng {

// The vocabulary columns of a student's rank, which holds `held`, that the teacher has too, possibly none.
Range shared_columns(Range held, const ModelConfig& teacher);

// Rows `columns` of the output matrix in `source`, of type `dtype`. Reads no other rows; of a tied model they
// are the embedding's.
Parameter load_teacher_head(WeightSource& source, Range columns, DType dtype, Device device);
// The same without values.
Parameter empty_teacher_head(const ModelConfig& config, Range columns, DType dtype, Device device);
// The same rows of an output matrix that is here, which must hold them: no copy.
Parameter rows_of_head(const Parameter& head, Range columns);

}  // namespace wuneng
