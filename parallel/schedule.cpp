#include "parallel/schedule.h"

#include <algorithm>
#include <set>

#include "runtime/error.h"

namespace wuneng {
namespace {

void add_forward(Schedule& out, int stages, int stage, int m) {
  if (stage > 0) out.push_back({Action::receive_activation, m});
  out.push_back({Action::forward, m});
  if (stage < stages - 1) out.push_back({Action::send_activation, m});
}

void add_backward(Schedule& out, int stages, int stage, int m) {
  if (stage < stages - 1) out.push_back({Action::receive_gradient, m});
  out.push_back({Action::backward, m});
  if (stage > 0) out.push_back({Action::send_gradient, m});
}

}  // namespace

std::string to_string(const Action& action) {
  constexpr const char* names[] = {"receive_activation", "forward", "send_activation", "receive_gradient", "backward", "send_gradient"};
  return fmt::format("{} {}", names[action.kind], action.micro_batch);
}

Schedule one_f_one_b(int stages, int stage, int micro_batches) {
  Schedule out;
  const int ahead = std::min(stages - stage - 1, micro_batches);
  for (int m = 0; m < ahead; ++m) add_forward(out, stages, stage, m);
  for (int m = 0; m < micro_batches; ++m) {
    if (m + ahead < micro_batches) add_forward(out, stages, stage, m + ahead);
    add_backward(out, stages, stage, m);
  }
  return out;
}

Schedule forward_only(int stages, int stage, int micro_batches) {
  Schedule out;
  for (int m = 0; m < micro_batches; ++m) add_forward(out, stages, stage, m);
  return out;
}

void validate(const std::vector<Schedule>& all, int micro_batches, bool trains) {
  const int stages = static_cast<int>(all.size());
  struct Progress {
    size_t next = 0;
    std::set<int> received, forward, backward, gradients;
    int live = 0;
  };
  std::vector<Progress> at(stages);
  std::set<std::pair<int, int>> activations, gradients;  // sent to (stage, micro-batch) and not yet received
  const auto wrong = [&](int stage, const std::string& why) {
    fail("pipeline schedule, stage {}, action {} ({}): {}", stage, at[stage].next, to_string(all[stage][at[stage].next]), why);
  };
  const auto step = [&](int s) {  // false: waits for a message
    Progress& p = at[s];
    const Action a = all[s][p.next];
    const int m = a.micro_batch;
    if (m < 0 || m >= micro_batches) wrong(s, fmt::format("no such micro-batch among {}", micro_batches));
    switch (a.kind) {
      case Action::receive_activation:
        if (!activations.erase({s, m})) return false;
        p.received.insert(m);
        break;
      case Action::forward:
        if (s > 0 && !p.received.count(m)) wrong(s, "its activation has not been received");
        if (!p.forward.insert(m).second) wrong(s, "a second time");
        if (trains && ++p.live > std::min(stages - s, micro_batches)) wrong(s, fmt::format("{} micro-batches held, expected at most {}", p.live, std::min(stages - s, micro_batches)));
        break;
      case Action::send_activation:
        if (s == stages - 1 || !p.forward.count(m)) wrong(s, "nothing to send");
        if (!activations.insert({s + 1, m}).second) wrong(s, "sent twice");
        break;
      case Action::receive_gradient:
        if (!gradients.erase({s, m})) return false;
        p.gradients.insert(m);
        break;
      case Action::backward:
        if (!p.forward.count(m)) wrong(s, "before its forward");
        if (s < stages - 1 && !p.gradients.count(m)) wrong(s, "its gradient has not been received");
        if (!p.backward.insert(m).second) wrong(s, "a second time");
        --p.live;
        break;
      case Action::send_gradient:
        if (s == 0 || !p.backward.count(m)) wrong(s, "nothing to send");
        if (!gradients.insert({s - 1, m}).second) wrong(s, "sent twice");
        break;
    }
    ++p.next;
    return true;
  };
  for (bool moved = true; moved;) {
    moved = false;
    for (int s = 0; s < stages; ++s)
      while (at[s].next < all[s].size() && step(s)) moved = true;
  }
  for (int s = 0; s < stages; ++s) {
    if (at[s].next < all[s].size()) wrong(s, "waits for a message that nobody sends (deadlock)");
    require(static_cast<int>(at[s].forward.size()) == micro_batches, "pipeline schedule, stage {}: {} forwards, expected {}", s, at[s].forward.size(), micro_batches);
    require(!trains || static_cast<int>(at[s].backward.size()) == micro_batches, "pipeline schedule, stage {}: {} backwards, expected {}", s, at[s].backward.size(), micro_batches);
  }
  require(activations.empty() && gradients.empty(), "pipeline schedule: {} messages are sent and never received", activations.size() + gradients.size());
}

}  // namespace wuneng
