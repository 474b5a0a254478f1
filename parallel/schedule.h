// Pipeline schedules as data: what each stage does, in order. Made by pure functions, checked by a validator,
// run by pipeline.h.
#pragma once
#include <string>
#include <vector>

namespace wuneng {

struct Action {
  enum Kind {
    receive_activation,
    forward,
    send_activation,
    receive_gradient,
    backward,  // the gradients of inputs and of weights
    send_gradient
  };
  Kind kind;
  int micro_batch;
  bool operator==(const Action&) const = default;
};
std::string to_string(const Action& action);  // "forward 3"

using Schedule = std::vector<Action>;  // of one stage

// 1F1B: stage s of p runs min(p - s - 1, m) forwards ahead, then a forward and a backward in turn. It holds
// at most min(p - s, m) micro-batches at a time and idles for (p - 1)(F + B).
Schedule one_f_one_b(int stages, int stage, int micro_batches);

// Forwards alone: evaluation, and the teacher.
Schedule forward_only(int stages, int stage, int micro_batches);

// The micro-batch that goes backward last, after which all gradients are complete; -1 where none goes.
int last_backward(const Schedule& schedule);

// Throws, naming stage, index and action, unless the schedules of all stages together
// - run to their end, where sends do not block and receives do, and leave no message behind,
// - take every micro-batch forward once and, where `trains`, backward once, each after what it needs,
// - and hold, where `trains`, at most min(p - s, m) micro-batches on stage s between forward and backward.
void validate(const std::vector<Schedule>& stages, int micro_batches, bool trains);

}  // namespace wuneng
