// How long the stages of a pipeline wait under each schedule: measured with layers of given times, which
// sleep, against the simulation that layout.schedule = "auto" uses, and the step's time as a share of 1F1B's.
// Sleeping takes no processor, so that the stages may be more than the machine has.
//
// usage: mpirun -n STAGES bench_pipeline [MICRO_BATCHES = 2 x STAGES] [F = 20] [B = 20] [W = 20]
//        F, B, W: milliseconds of a stage's forward, input and weight half of a micro-batch
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "parallel/pipeline.h"
#include "parallel/schedule_times.h"

namespace wuneng {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t kHidden = 64;

void sleep(double milliseconds) {
  std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(milliseconds));
}

// One step's milliseconds, from the meeting of all stages before to their meeting after it.
double measure(const PipelineRanks& pp, const PipelineSchedule& schedule, const VirtualStages& on,
               int micro_batches, const ActionTimes& times) {
  const int stage = pp.activations.rank();
  const double share = 1.0 / on.chunks;
  const auto forward = [&](Tape& tape, int, int chunk, const StageState& in) {
    sleep(times.forward * share);
    const Var x = in.hidden.defined() ? in.hidden : Var(Tensor::zeros({1, kHidden}), true);
    const Var y = tape.output(on.last(stage, chunk) ? Tensor::zeros({1}) : x.value().clone(), true);
    tape.record(
        y,
        [=] {
          sleep(times.backward_input * share);
          x.add_grad(Tensor::zeros({1, kHidden}));
        },
        [=](const Tensor&) { sleep(times.backward_weight * share); });
    return StageState{y, {}};
  };
  const Pipeline pipeline(pp, on, kHidden);
  const Schedule actions = schedule(on, stage, micro_batches);
  pp.activations.barrier("before the step");
  const auto begin = Clock::now();
  pipeline.run(actions, {.rows = [](int) { return 1; }, .forward = forward, .train = true});
  pp.activations.barrier("after the step");
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

void run(int argc, char** argv) {
  const Comm pp = Comm::world();
  const auto number = [&](int i, double fallback) { return argc > i ? std::atof(argv[i]) : fallback; };
  const int micro_batches = static_cast<int>(number(1, 2 * pp.size()));
  const ActionTimes times{number(2, 20), number(3, 20), number(4, 20)};
  const double busy = micro_batches * (times.forward + times.backward_input + times.backward_weight);
  if (pp.rank() == 0)
    fmt::print("{} stages, {} micro-batches of {} + {} + {} ms\n{:<14}{:>8}{:>12}{:>12}{:>12}\n", pp.size(),
               micro_batches, times.forward, times.backward_input, times.backward_weight, "schedule",
               "chunks", "simulated", "measured", "of 1f1b");
  double first = 0;
  for (const std::string& name : schedule_names()) {
    const PipelineSchedule& schedule = schedule_named(name);
    const VirtualStages on{pp.size(), schedule.default_chunks(), schedule.placement};
    measure(pp, schedule, on, micro_batches, {0, 0, 0});  // connections
    const double all = measure(pp, schedule, on, micro_batches, times);
    if (first == 0) first = all;
    if (pp.rank() == 0)
      fmt::print("{:<14}{:>8}{:>11.1f}%{:>11.1f}%{:>12.3f}\n", name, on.chunks,
                 100 * simulate(schedule, on, micro_batches, times).idle_share(), 100 * (1 - busy / all),
                 all / first);
  }
}

}  // namespace
}  // namespace wuneng

int main(int argc, char** argv) {
  wuneng::Runtime runtime(&argc, &argv);
  wuneng::run(argc, argv);
  return 0;
}
