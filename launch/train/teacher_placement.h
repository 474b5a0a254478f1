// Where a run's teacher is: on ranks of its own (stream), or in the student's processes (colocated).
#pragma once
#include <string>
#include <vector>

#include "launch/train/recipe.h"
#include "model/teacher_signals/signal_source.h"

namespace wuneng {

// teacher.mode is "stream", "colocated", or "auto": colocated where as many ranks were started as the
// student's layout asks for, else on ranks of its own.
bool teacher_streams(const std::string& mode, const Layout& student, const Layout& teacher);
// The signals of the recipe's objective, between the ranks where the recipe has both models. Throws where a
// colocated teacher's rank does not hold what the student's rank wants.
std::vector<SourcedSignal> teacher_signals_of(const TrainRecipe& recipe);
// What a streaming teacher's ranks send the student's of these signals of one token, in bytes.
double signal_bytes_a_token(const TrainRecipe& recipe, const std::vector<std::string>& names);
// For the user: where the teacher is, why, and the bytes a token that go from rank to rank for it.
std::string describe_teacher(const TrainRecipe& recipe, bool chosen_here);

}  // namespace wuneng
