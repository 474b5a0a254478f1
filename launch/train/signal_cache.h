// The cache of the teacher's signals on disk (teacher.cache): a RecordStore with a record for every sequence
// and signal, and cache.json, which says of which teacher and signals they are.
//
// A sequence is data.seq_len rows of a micro-batch, whose first begins a document. Its key is a hash of its
// tokens and document boundaries, which decide what the teacher gives: it is found again in later epochs, in
// another order, micro-batch, replica and layout. A record is [seq_len, sent_columns(type, width)] of the
// signal's type, as a student's rank got it.
#pragma once
#include <vector>

#include "launch/train/training_data.h"
#include "parallel/teacher_signal.h"
#include "runtime/record_store.h"

namespace wuneng {

struct CachedSignal {
  TeacherSignal signal;
  int64_t kind;   // of its records
  int64_t bytes;  // of a record
};
// The signals that the recipe's objective needs, in order: on one of the student's stages, or on all.
std::vector<CachedSignal> cached_signals(const TrainRecipe& recipe, std::optional<int> stage = {});
// Throws where the recipe's objective needs a signal that is not cached.
void check_cacheable(const TrainRecipe& recipe);

// Of the sequence that is the `position`-th of a micro-batch. Throws where a document goes beyond it.
std::array<uint64_t, 2> sequence_key(const MicroBatch& batch, int64_t position, int64_t seq_len);

// Throws unless recipe.cache is a cache of the recipe's teacher, tokenizer and signals. Makes it where there
// is none and the recipe has a teacher that runs. For one rank, before the others open it.
void prepare_cache(const TrainRecipe& recipe, const TrainingData& data);

}  // namespace wuneng
