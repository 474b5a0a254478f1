#include <algorithm>
#include <cstdio>

#include "launch/commands/commands.h"
#include "launch/plan/layouts.h"
#include "model/decoder.h"

namespace wuneng {
namespace {

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
  std::printf("  %-6d %-16s %9.4g %9.4g %9.4g %9.4g %11.4g %9.4g %9.4g\n", stage, layers.c_str(),
              double(u.weights) / kGiB, double(u.gradients) / kGiB, double(u.optimizer) / kGiB,
              double(u.teacher) / kGiB, double(rest) / kGiB, double(u.peak) / kGiB, u.counts.flops() / 1e12);
}

std::string text(Range layers) {
  return layers.size() == 0 ? "none" : fmt::format("{}-{}", layers.begin, layers.end - 1);
}

void print_layouts(const PlanCommand& c) {
  const Gpu& gpu = gpu_named(c.gpu);
  const std::vector<LayoutPlan> plans = plan_layouts(c.recipe, c.overrides, c.gpus, gpu);
  const TrainRecipe base = TrainRecipe::load(c.recipe, c.overrides, TrainRecipe::Use::plan);
  std::printf(
      "%d x %s, %.1f GiB for tensors each: %zu layouts fit; the fastest by estimate, at %lld tokens a step\n",
      c.gpus, gpu.name.c_str(), gpu.memory / kGiB, plans.size(),
      static_cast<long long>(base.tokens_per_step()));
  std::printf("  %8s %10s  %-24s %-14s %8s %8s  %s\n", "step", "tokens/s", "student dp pp tp", "teacher",
              "GiB", "GiB", "bound by");
  for (size_t i = 0; i < std::min<size_t>(10, plans.size()); ++i) {
    const LayoutPlan& p = plans[i];
    const auto text = [](const Layout& l) { return fmt::format("{} {} {}", l.dp, l.pp, l.tp); };
    std::printf("  %6.3f s %10.0f  %-24s %-14s %8.1f %8.1f  %s\n", p.time.step,
                double(base.tokens_per_step()) / p.time.step,
                (text(p.student) + (p.student.pp > 1 ? " " + p.schedule : "")).c_str(),
                p.teacher ? text(*p.teacher).c_str() : "-", double(p.student_bytes) / kGiB,
                double(p.teacher_bytes) / kGiB, p.time.binds.c_str());
  }
  if (base.on_policy.share > 0)
    std::printf("on-policy continuations (on_policy.share) take time that is not in these estimates\n");
  std::printf("the first: wuneng train %s %s\n", c.recipe.c_str(),
              fmt::format("{}", fmt::join(plans[0].settings, " ")).c_str());
}

void print_ranks(const PlanCommand& c) {
  const TrainRecipe r = TrainRecipe::load(c.recipe, c.overrides, TrainRecipe::Use::plan);
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

}  // namespace

void plan(const PlanCommand& command) { command.gpus > 0 ? print_layouts(command) : print_ranks(command); }

}  // namespace wuneng
