// How long a step takes, estimated from what dry runs of its ranks count (dry_rank.h) and the rates of a GPU.
#pragma once
#include "launch/plan/dry_rank.h"
#include "launch/plan/gpu.h"

namespace wuneng {

// Seconds of one rank.
struct ComputeTime {
  double products = 0, attention = 0, wkv7 = 0;
  double passes = 0;    // of kernels that memory binds: each tensor is written once and read twice
  double launches = 0;  // of the host, beside which the GPU computes
  double tp_sums = 0;   // within layers; counted whole, though some of it overlaps
  double all() const;
};
ComputeTime compute_time(const dry_run::Counts& counts, const Gpu& gpu);

struct StepTime {
  double step = 0;
  double student = 0, teacher = 0;  // the slower of which the step takes
  std::string binds;                // the largest part of the slower one, with its share
};

// student: ranks of each stage, of `micro_batches` each. teacher: ranks of each of its stages, of one
// micro-batch; empty: it has none of its own.
StepTime step_time(const TrainRecipe& recipe, const std::vector<RankUse>& student, int micro_batches,
                   const std::vector<RankUse>& teacher, const Gpu& gpu);

}  // namespace wuneng
