// The teacher's logits of a micro-batch, over the columns of the vocabulary that a rank shares with it, a
// chunk of tokens at a time.
#pragma once
#include <vector>

#include "kernels/loss.h"
#include "parallel/teacher_signal.h"

namespace wuneng {

// What a vocabulary loss gets of the teacher: nothing, or one of its signals "logits", "hidden" and "top_k".
struct TeacherDistribution {
  std::vector<SignalPart> logits;   // that tile the shared columns, each over all rows
  SignalPart hidden;                // [T, the teacher's d], with
  const Parameter* head = nullptr;  // the shared columns' rows of the teacher's output matrix
  Tensor ids, logprobs;             // [T, k] i32, and [T, k + 1] f32: model/teacher_signals/top_k.cpp
  int64_t shared = 0;               // of ids: the vocabulary columns that both models share
};

class TeacherLogits {
 public:
  // For a rank that holds the vocabulary columns `held` of micro-batches of `rows` tokens. Throws where a
  // part lies outside of them or has not all rows.
  TeacherLogits(TeacherDistribution teacher, Range held, int64_t rows);

  // Of tokens [begin, end), in order of their columns; empty without a teacher. Logits that were sent are
  // used where they are; those of a hidden state are formed here and valid until the next call.
  std::vector<kernels::TeacherColumns> chunk(const Stream& stream, int64_t begin, int64_t end);

 private:
  TeacherDistribution teacher_;
  Range held_;
  Tensor product_;  // [tokens of a chunk, shared columns] f32
};

}  // namespace wuneng
