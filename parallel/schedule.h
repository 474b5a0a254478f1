// Pipeline schedules as data: what each stage does, in order. A schedule is a pure function in schedules/,
// registered here, checked by schedule_validator.h, run by pipeline.h.
#pragma once
#include <compare>
#include <string>
#include <utility>
#include <vector>

namespace wuneng {

struct Action {
  enum Kind {
    receive_activation,
    forward,
    send_activation,
    receive_gradient,
    backward,         // whole: the gradients of inputs and of weights
    backward_input,   // its first half, B of the zero-bubble papers: as much as the chunk's input needs
    backward_weight,  // its second half, W: the gradients of weights that are left
    send_gradient
  };
  Kind kind;
  int micro_batch;
  int chunk = 0;  // of this stage's model chunks
  auto operator<=>(const Action&) const = default;

  bool computes() const { return kind == forward || goes_backward(); }
  bool goes_backward() const { return kind == backward || forms_input_gradient() || completes_gradients(); }
  // Of a message: is it with the next virtual stage, not with the previous one?
  bool with_next() const { return kind == send_activation || kind == receive_gradient; }
  bool forms_input_gradient() const { return kind == backward || kind == backward_input; }
  bool completes_gradients() const { return kind == backward || kind == backward_weight; }
};
std::string to_string(const Action& action);  // "forward 3", "forward 3 of chunk 1"

using Schedule = std::vector<Action>;  // of one stage

// Where the model chunks of a pipeline are. A stage's rank holds `chunks` of them; all together are the
// virtual stages 0, 1, ..., through which a micro-batch goes in this order.
struct VirtualStages {
  enum Placement {
    interleaved,  // Megatron-LM's: 0, 1, ..., p - 1, 0, 1, ..., p - 1
    v_shaped      // ZB-V's (arXiv 2405.15362): 0, 1, ..., p - 1, p - 1, ..., 1, 0
  };
  int stages = 1, chunks = 1;
  Placement placement = interleaved;

  int count() const { return stages * chunks; }
  int at(int stage, int chunk) const { return chunk * stages + mirrored(stage, chunk); }
  int stage_of(int virtual_stage) const { return mirrored(virtual_stage % stages, chunk_of(virtual_stage)); }
  int chunk_of(int virtual_stage) const { return virtual_stage / stages; }
  bool first(int stage, int chunk) const { return at(stage, chunk) == 0; }
  bool last(int stage, int chunk) const { return at(stage, chunk) == count() - 1; }
  // Which of the virtual stages with this chunk number, in order, is the stage's.
  int position(int stage, int chunk) const { return mirrored(stage, chunk); }
  int last_stage() const { return stage_of(count() - 1); }  // which has the last virtual stage
  // The stages of consecutive virtual stages, each pair once, where they are two.
  std::vector<std::pair<int, int>> neighbours() const;

 private:
  int mirrored(int i, int chunk) const { return placement == v_shaped && chunk % 2 ? stages - 1 - i : i; }
};

// A stage's forwards and backwards with their messages: a receive just before what needs it, a send just
// after what makes it, none where the neighbouring virtual stage is on the same stage.
Schedule with_messages(const Schedule& computations, const VirtualStages& on, int stage);

// A schedule by name. To add one: a file in schedules/, its declaration below, a line in schedule.cpp.
struct PipelineSchedule {
  const char* name;
  bool trains;  // false: forwards alone
  VirtualStages::Placement placement;
  // The forwards and backwards of a stage, in order.
  Schedule (*computations)(const VirtualStages& on, int stage, int micro_batches);
  // The most micro-batches that a stage holds at a time, each chunk's counted, from a forward until all
  // gradients of its backward are formed. Of schedules that train.
  int (*most_held)(const VirtualStages& on, int stage, int micro_batches);
  int chunks = 1;  // of a stage; kAnyChunks: any number
  static constexpr int kAnyChunks = 0;

  int default_chunks() const { return chunks == kAnyChunks ? 2 : chunks; }
  bool takes(int number) const { return chunks == kAnyChunks ? number > 0 : number == chunks; }
  // All actions of a stage. Throws where the sizes make no sense or are not this schedule's.
  Schedule operator()(const VirtualStages& on, int stage, int micro_batches) const;
};
extern const PipelineSchedule one_f_one_b, interleaved_1f1b, zb_h1, zb_v, forward_only;

// The schedules that train, which layout.schedule chooses among.
std::vector<std::string> schedule_names();
const PipelineSchedule& schedule_named(const std::string& name);

// The micro-batch in whose backward the gradients of a chunk become complete, and those of all chunks behind
// it are by then; -1 where there is none. With halves it is in the weight half that they become complete.
int last_backward(const Schedule& schedule, int chunk = 0);

}  // namespace wuneng
