#include "parallel/schedule.h"

#include <algorithm>

#include "runtime/error.h"

namespace wuneng {
namespace {

const PipelineSchedule* const registered[] = {&one_f_one_b, &interleaved_1f1b, &zb_h1, &zb_v};

}  // namespace

std::vector<std::pair<int, int>> VirtualStages::neighbours() const {
  std::vector<std::pair<int, int>> out;
  for (int v = 0; v + 1 < count(); ++v) {
    const std::pair<int, int> pair{stage_of(v), stage_of(v + 1)};
    if (pair.first != pair.second && std::find(out.begin(), out.end(), pair) == out.end())
      out.push_back(pair);
  }
  return out;
}

std::string to_string(const Action& action) {
  constexpr const char* names[] = {"receive_activation", "forward",      "send_activation",
                                   "receive_gradient",   "backward",     "backward_input",
                                   "backward_weight",    "send_gradient"};
  return fmt::format("{} {}{}", names[action.kind], action.micro_batch,
                     action.chunk == 0 ? "" : fmt::format(" of chunk {}", action.chunk));
}

Schedule with_messages(const Schedule& computations, const VirtualStages& on, int stage) {
  Schedule out;
  for (const Action& a : computations) {
    const int v = on.at(stage, a.chunk);
    const bool from_previous = v > 0 && on.stage_of(v - 1) != stage,
               to_next = v < on.count() - 1 && on.stage_of(v + 1) != stage;
    const auto message = [&](bool wanted, Action::Kind kind) {
      if (wanted) out.push_back({kind, a.micro_batch, a.chunk});
    };
    message(from_previous && a.kind == Action::forward, Action::receive_activation);
    message(to_next && a.forms_input_gradient(), Action::receive_gradient);
    out.push_back(a);
    message(to_next && a.kind == Action::forward, Action::send_activation);
    message(from_previous && a.forms_input_gradient(), Action::send_gradient);
  }
  return out;
}

Schedule PipelineSchedule::operator()(const VirtualStages& on, int stage, int micro_batches) const {
  require(stage >= 0 && stage < on.stages && on.chunks > 0 && micro_batches >= 0,
          "pipeline schedule {}: stage {} of {} with {} chunks and {} micro-batches: expected "
          "0 <= stage < stages, chunks > 0, micro-batches >= 0",
          name, stage, on.stages, on.chunks, micro_batches);
  require(takes(on.chunks), "pipeline schedule {}: expected {} model chunks a stage, found {}", name, chunks,
          on.chunks);
  return with_messages(computations(on, stage, micro_batches), on, stage);
}

std::vector<std::string> schedule_names() {
  std::vector<std::string> out;
  for (const PipelineSchedule* s : registered) out.push_back(s->name);
  return out;
}

const PipelineSchedule& schedule_named(const std::string& name) {
  for (const PipelineSchedule* s : registered)
    if (s->name == name) return *s;
  fail("pipeline schedule: expected one of {}, found '{}'", fmt::join(schedule_names(), ", "), name);
}

int last_backward(const Schedule& schedule, int chunk) {
  const auto found = std::find_if(schedule.rbegin(), schedule.rend(), [&](const Action& a) {
    return a.completes_gradients() && a.chunk >= chunk;
  });
  return found == schedule.rend() || found->chunk != chunk ? -1 : found->micro_batch;
}

}  // namespace wuneng
