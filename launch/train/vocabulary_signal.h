// What a teacher sends for a divergence over the vocabulary (teacher.signal): its logits; its final hidden
// state, which the student's ranks multiply with a frozen shard of its output matrix; or its most probable
// tokens and the mass of all others.
#pragma once
#include <string>

#include "launch/train/recipe.h"

namespace wuneng {

struct VocabularySignal {
  std::string name;  // of the teacher signal
  std::string why;   // for the user
};

// asked: a signal's name, or "auto", for a recipe whose teacher, layouts and device are read. auto: of a
// colocated teacher, or where
//   2 d V  <=  flops_a_byte (bytes of logits - bytes of the hidden state)
// a token, with the teacher's hidden size d and the V columns that both vocabularies share, the hidden state;
// else logits. That is, where the product costs less time than the bytes that it saves.
VocabularySignal choose_vocabulary_signal(const TrainRecipe& recipe, const std::string& asked);

// For the user; names what makes it differ from the teacher's distribution.
std::string describe_signal(const TrainRecipe& recipe, const VocabularySignal& signal);

}  // namespace wuneng
