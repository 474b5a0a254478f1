// Pipeline schedules as data: what each stage does, in order. Made by pure functions, checked by a validator, run by pipeline.h.
#pragma once
#include <string>
#include <vector>

namespace wuneng {

struct Action {
  enum Kind { receive_activation, forward, send_activation, receive_gradient, backward, send_gradient };
  Kind kind;
  int micro_batch;
  bool operator==(const Action&) const = default;
};
std::string to_string(const Action& action);  // "forward 3"

using Schedule = std::vector<Action>;  // of one stage

// 1F1B: stage s of p runs min(p - s - 1, m) forwards ahead, then a forward and a backward in turn. Idle time (p - 1)(F + B).
Schedule one_f_one_b(int stages, int stage, int micro_batches);
// Forwards alone: evaluation, and the teacher.
Schedule forward_only(int stages, int stage, int micro_batches);

// Throws, naming stage, index and action, unless the schedules of all stages together run to their end (sends do not block, receives do), every
// micro-batch goes forward once and, where `trains`, backward once after it, and stage s holds at most min(p - s, m) micro-batches at a time.
void validate(const std::vector<Schedule>& stages, int micro_batches, bool trains);

}  // namespace wuneng
