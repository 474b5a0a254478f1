#include "launch/train/run_plan.h"

namespace wuneng {

std::vector<Pass> plan_passes(int64_t steps, int64_t eval_every, int64_t parts) {
  std::vector<Pass> out;
  for (int64_t step = 0; step <= steps; ++step) {
    if (eval_every > 0 && (step % eval_every == 0 || step == steps))
      for (int64_t part = 0; part < parts; ++part) out.push_back({false, step, part, part + 1 == parts});
    if (step < steps) out.push_back({true, step, 0});
  }
  return out;
}

int64_t first_pass(const std::vector<Pass>& passes, int64_t steps_done) {
  int64_t i = 0;
  while (i < static_cast<int64_t>(passes.size()) && passes[i].step < steps_done) ++i;
  return i;
}

}  // namespace wuneng
