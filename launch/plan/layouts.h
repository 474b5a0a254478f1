// The layouts of a recipe's run on a number of GPUs, with their memory and time.
#pragma once
#include "launch/plan/step_time.h"

namespace wuneng {

struct LayoutPlan {
  std::vector<std::string> settings;  // of the recipe: "layout.tp=4"
  Layout student;
  std::optional<Layout> teacher;
  std::string schedule;
  int64_t student_bytes, teacher_bytes;  // peak of the rank with most
  StepTime time;
};

// All layouts of the student with tp within a node whose ranks fit into a GPU's memory, each with the
// teacher's fastest layout, the fastest first. A step has the recipe's number of sequences in each of them;
// the recipe's teacher has ranks of its own. Throws where there is none, with what the smallest needs.
std::vector<LayoutPlan> plan_layouts(const std::string& recipe, const std::vector<std::string>& overrides,
                                     int gpus, const Gpu& gpu);

}  // namespace wuneng
