#include <algorithm>
#include <cstdio>

#include "launch/commands/commands.h"
#include "launch/plan/dry_rank.h"
#include "model/decoder.h"

namespace wuneng {
namespace {

constexpr double kGiB = 1024.0 * 1024 * 1024;

// Of the tensor-parallel ranks of a stage, the one that holds most.
template <class Rank>
RankUse largest(int tp, const Rank& rank) {
  RankUse out;
  for (int i = 0; i < tp; ++i)
    if (RankUse use = rank(i); use.peak > out.peak) out = std::move(use);
  return out;
}

void print_heading(const char* role, const Layout& l) {
  std::printf("%s: dp %d x pp %d x tp %d = %d ranks; GiB of tensors on the rank of each stage with most\n",
              role, l.dp, l.pp, l.tp, l.size());
  std::printf("  %-6s %-16s %9s %9s %9s %9s %11s %9s %9s\n", "stage", "layers", "weights", "gradients",
              "optimizer", "teacher", "activations", "peak", "TFLOP");
}

void print_rank(int stage, const std::string& layers, const RankUse& u) {
  const int64_t rest = u.peak - u.weights - u.gradients - u.optimizer - u.teacher;
  double flops = 0;
  for (const auto& [kernel, count] : u.kernels) flops += count.flops;
  std::printf("  %-6d %-16s %9.5f %9.5f %9.5f %9.5f %11.5f %9.5f %9.5f\n", stage, layers.c_str(),
              double(u.weights) / kGiB, double(u.gradients) / kGiB, double(u.optimizer) / kGiB,
              double(u.teacher) / kGiB, double(rest) / kGiB, double(u.peak) / kGiB, flops / 1e12);
}

std::string text(Range layers) {
  return layers.size() == 0 ? "none" : fmt::format("{}-{}", layers.begin, layers.end - 1);
}

}  // namespace

void plan(const std::string& recipe, const std::vector<std::string>& overrides) {
  const TrainRecipe r = TrainRecipe::load(recipe, overrides, TrainRecipe::Use::plan);
  for (const std::string& note : r.notes) std::printf("%s\n", note.c_str());
  print_heading("student", r.layout);
  const VirtualStages on = r.virtual_stages();
  for (int stage = 0; stage < r.layout.pp; ++stage) {
    std::vector<std::string> layers;
    for (int chunk = 0; chunk < on.chunks; ++chunk)
      layers.push_back(text(stage_layers(r.student, on.count(), on.at(stage, chunk))));
    print_rank(stage, fmt::format("{}", fmt::join(layers, ", ")),
               largest(r.layout.tp, [&](int rank) { return dry_student_rank(r, stage, rank); }));
  }
  if (!r.teacher_layout) return;
  print_heading("teacher", *r.teacher_layout);
  for (int stage = 0; stage < r.teacher_layout->pp; ++stage)
    print_rank(stage, text(stage_layers(*r.teacher, r.teacher_layout->pp, stage)),
               largest(r.teacher_layout->tp, [&](int rank) { return dry_teacher_rank(r, stage, rank); }));
}

}  // namespace wuneng
