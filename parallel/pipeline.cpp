#include "parallel/pipeline.h"

#include <algorithm>
#include <map>
#include <optional>

#include "runtime/trace.h"
#include "runtime/watchdog.h"

namespace wuneng {
namespace {

enum class Direction { forward, backward };

// A state from a virtual stage to the next, or its gradient back: the hidden state first.
struct Message {
  int micro_batch;
  int made_by;  // the virtual stage whose state it is
  Direction direction;
  std::vector<Shape> shapes;  // of the tensors
};

// This stage's messages with other stages. Sent buffers are kept by their requests, which are let go at the
// next send when they have ended, so that a slow receiver costs memory rather than time.
class Link {
 public:
  Link(const PipelineRanks& pp, const VirtualStages& on, Stream stream, DType dtype)
      : pp_(pp), on_(on), stream_(stream), dtype_(dtype) {}

  // Has the next message that will be received come while this stage still computes.
  void expect(const Message& message) {
    const int peer =
        on_.stage_of(message.direction == Direction::forward ? message.made_by : message.made_by + 1);
    for (size_t i = 0; i < message.shapes.size(); ++i) {
      const int key = tag(message, i);
      if (expected_.contains(key)) continue;
      const Tensor buffer = Tensor::empty(message.shapes[i], dtype_, stream_.device);
      expected_.emplace(key, Expected{buffer, ranks(message).irecv(buffer, peer, key, name(message))});
    }
  }

  std::vector<Tensor> receive(const Message& message) {
    expect(message);
    std::vector<Tensor> out;
    for (size_t i = 0; i < message.shapes.size(); ++i) {
      auto [buffer, request] = std::move(expected_.extract(tag(message, i)).mapped());
      request.wait();
      out.push_back(buffer);
    }
    return out;
  }

  void send(const std::vector<Tensor>& tensors, const Message& message) {
    const int peer =
        on_.stage_of(message.direction == Direction::forward ? message.made_by + 1 : message.made_by);
    require_shapes(tensors, message, peer);
    std::erase_if(sends_, [](Request& r) { return r.done(); });
    for (size_t i = 0; i < tensors.size(); ++i)
      sends_.push_back(ranks(message).isend(tensors[i], peer, tag(message, i), name(message)));
  }

  void require_shapes(const std::vector<Tensor>& tensors, const Message& message, int peer) const {
    for (size_t i = 0; i < tensors.size(); ++i) {
      const Shape& expected = message.shapes[i];
      require(tensors[i].shape() == expected && tensors[i].dtype() == dtype_,
              "{} of micro-batch {} to stage {}: expected {}{}, found {}{}", name(message),
              message.micro_batch, peer, to_string(dtype_), to_string(expected),
              to_string(tensors[i].dtype()), to_string(tensors[i].shape()));
    }
  }

  void finish() {
    for (Request& r : sends_) r.wait();
    sends_.clear();
  }

 private:
  struct Expected {
    Tensor buffer;
    Request request;
  };

  const Comm& ranks(const Message& message) const {
    return message.direction == Direction::forward ? pp_.activations : pp_.gradients;
  }
  // The tag tells messages of one pair of ranks apart, whatever the order in which either side names them.
  int tag(const Message& message, size_t tensor) const {
    constexpr int kMostTensors = 8;
    WUNENG_ASSERT(message.shapes.size() <= kMostTensors);
    return (2 * (message.micro_batch * on_.chunks + on_.chunk_of(message.made_by)) +
            (message.direction == Direction::backward)) *
               kMostTensors +
           static_cast<int>(tensor);
  }
  static const char* name(const Message& message) {
    return message.direction == Direction::forward ? "pipeline activation" : "pipeline gradient";
  }

  const PipelineRanks& pp_;
  const VirtualStages& on_;
  Stream stream_;
  DType dtype_;
  std::map<int, Expected> expected_;  // by tag
  std::vector<Request> sends_;
};

// A micro-batch in a model chunk. Each part is let go when nothing needs it any more:
struct InFlight {
  std::optional<Tape> tape;  // when its gradients are complete
  StageState in;             // when its gradient has been passed on
  StageState out;  // when it has been passed on and, in training, its backward or input half is done

  bool done() const { return !tape && !in.hidden.defined() && !out.hidden.defined(); }
};

using Carried = std::vector<CarriedTensor>;

// A state's tensors in the order of their messages.
std::vector<Var> vars(const StageState& state, const Carried& carried) {
  std::vector<Var> out = {state.hidden};
  for (const CarriedTensor& tensor : carried) {
    const auto it = state.carried.find(tensor.name);
    require(it != state.carried.end(), "pipeline: expected '{}' in addition to the hidden state, found none",
            tensor.name);
    out.push_back(it->second);
  }
  return out;
}

std::vector<Tensor> values(const std::vector<Var>& vars) {
  std::vector<Tensor> out;
  for (const Var& v : vars) out.push_back(v.value());
  return out;
}

// A chunk that does not read its input still owes the previous one a gradient: zero.
std::vector<Tensor> gradients(const std::vector<Var>& vars) {
  std::vector<Tensor> out;
  for (const Var& v : vars) out.push_back(v.grad_buffer());
  return out;
}

void set_gradients(const std::vector<Var>& vars, const std::vector<Tensor>& gradients) {
  for (size_t i = 0; i < vars.size(); ++i) vars[i].set_grad(gradients[i]);
}

// The other way round: leaves of a tape.
StageState state_of(const std::vector<Tensor>& tensors, const Carried& carried, bool needs_grad) {
  StageState out{Var(tensors[0], needs_grad), {}};
  for (size_t i = 0; i < carried.size(); ++i) out.carried[carried[i].name] = Var(tensors[i + 1], needs_grad);
  return out;
}

trace::Kind traced_as(const Action& action) {
  if (action.computes()) return trace::Kind::compute;
  const bool sends = action.kind == Action::send_activation || action.kind == Action::send_gradient;
  return sends ? trace::Kind::communication : trace::Kind::waiting;
}

// One run of a stage's schedule.
class Run {
 public:
  Run(const VirtualStages& on, int stage, int64_t hidden_size, const PipelineWork& work, Stream stream,
      Link& link)
      : on_(on), stage_(stage), hidden_size_(hidden_size), work_(work), stream_(stream), link_(link) {}

  void step(const Action& action) {
    a_ = &action;
    watchdog::at_micro_batch(action.micro_batch);
    virtual_stage_ = on_.at(stage_, action.chunk);
    const trace::Span span(traced_as(action), trace::recording() ? to_string(action) : "");
    if (!action.computes()) {
      const int peer = virtual_stage_ + (action.with_next() ? 1 : -1);
      require(peer >= 0 && peer < on_.count() && !here(peer),
              "pipeline stage {}, {}: expected a virtual stage {} on another rank, found none", stage_,
              to_string(action), action.with_next() ? "after this one" : "before this one");
    }
    InFlight& f = at(action.chunk);
    switch (action.kind) {
      case Action::receive_activation:
        f.in =
            state_of(link_.receive(from_previous(Direction::forward)), carried_in(action.chunk), work_.train);
        break;
      case Action::forward:
        forward(f);
        break;
      case Action::send_activation:
        link_.send(values(vars(f.out, carried_out(action.chunk))), to_next(Direction::forward));
        if (!work_.train) f.out = {};
        break;
      case Action::receive_gradient:
        set_gradients(vars(f.out, carried_out(action.chunk)), link_.receive(to_next(Direction::backward)));
        break;
      case Action::backward:
      case Action::backward_input:
        backward(f);
        break;
      case Action::backward_weight:
        require(f.tape && !f.out.hidden.defined(),
                "pipeline stage {}, {}: expected its backward_input before it, found none", stage_,
                to_string(action));
        f.tape->backward_weights();
        f.tape.reset();
        break;
      case Action::send_gradient:
        require(f.in.hidden.defined() && !f.out.hidden.defined(),
                "pipeline stage {}, {}: expected its backward or backward_input before it, found none",
                stage_, to_string(action));
        link_.send(gradients(vars(f.in, carried_in(action.chunk))), from_previous(Direction::backward));
        f.in = {};
        break;
    }
    std::erase_if(flight_, [](const auto& entry) { return entry.second.done(); });
    if (trace::recording()) synchronize(stream_.device);  // the action's own time
  }

  void expect(const Action& receive) {
    const int v = on_.at(stage_, receive.chunk);
    const bool forward = receive.kind == Action::receive_activation;
    link_.expect(
        {receive.micro_batch, forward ? v - 1 : v, forward ? Direction::forward : Direction::backward,
         shapes(receive.micro_batch, forward ? carried_in(receive.chunk) : carried_out(receive.chunk))});
  }

  void require_done() const {
    for (const auto& [key, f] : flight_)
      fail("pipeline stage {}, after the schedule's last action: micro-batch {} of chunk {} has not been {}",
           stage_, key.first, key.second,
           !f.tape                  ? "passed on"
           : f.out.hidden.defined() ? "taken backward"
                                    : "through its backward_weight");
  }

 private:
  InFlight& at(int chunk) { return flight_[{a_->micro_batch, chunk}]; }
  Carried carried_in(int chunk) const { return work_.carried_in ? work_.carried_in(chunk) : Carried(); }
  Carried carried_out(int chunk) const { return work_.carried_out ? work_.carried_out(chunk) : Carried(); }
  // Of the hidden state [R, d], and of what is carried [T, width].
  std::vector<Shape> shapes(int micro_batch, const Carried& carried) const {
    const int64_t rows = work_.rows(micro_batch);
    std::vector<Shape> out = {{work_.hidden_rows ? work_.hidden_rows(micro_batch) : rows, hidden_size_}};
    for (const CarriedTensor& tensor : carried) out.push_back({rows, tensor.width});
    return out;
  }
  bool first() const { return virtual_stage_ == 0; }
  bool last() const { return virtual_stage_ == on_.count() - 1; }
  // The messages with the previous and the next virtual stage.
  Message from_previous(Direction direction) const {
    return {a_->micro_batch, virtual_stage_ - 1, direction, shapes(a_->micro_batch, carried_in(a_->chunk))};
  }
  Message to_next(Direction direction) const {
    return {a_->micro_batch, virtual_stage_, direction, shapes(a_->micro_batch, carried_out(a_->chunk))};
  }
  // Is the virtual stage v one of this stage's chunks?
  bool here(int v) const { return v >= 0 && v < on_.count() && on_.stage_of(v) == stage_; }

  void forward(InFlight& f) {
    require(first() || f.in.hidden.defined(),
            "pipeline stage {}, {}: expected its hidden state before it, found none", stage_, to_string(*a_));
    f.tape.emplace(stream_, work_.train);
    f.out = work_.forward(*f.tape, a_->micro_batch, a_->chunk, f.in);
    if (here(virtual_stage_ + 1)) {
      const Carried carried = carried_out(a_->chunk);
      const std::vector<Tensor> passed_on = values(vars(f.out, carried));
      link_.require_shapes(passed_on, to_next(Direction::forward), stage_);
      at(on_.chunk_of(virtual_stage_ + 1)).in = state_of(passed_on, carried, work_.train);
    }
    if (work_.train) return;
    f.tape.reset();
    f.in = {};
    if (last() || here(virtual_stage_ + 1)) f.out = {};
  }

  void backward(InFlight& f) {
    require(work_.train && f.tape && f.out.hidden.defined(),
            "pipeline stage {}, {}: expected a recorded forward before it, found none", stage_,
            to_string(*a_));
    if (last()) {
      const Var& loss = f.out.hidden;
      require(loss.shape() == Shape{1}, "pipeline stage {}, {}: expected a loss [1], found {}", stage_,
              to_string(*a_), to_string(loss.shape()));
      loss.set_grad(Tensor::from<float>({1.0f}, {1}));
    }
    require(f.out.hidden.has_grad(),
            "pipeline stage {}, {}: expected the gradient of its hidden state before it, found none", stage_,
            to_string(*a_));
    if (a_->kind == Action::backward_input) {
      f.tape->backward_inputs();
    } else {
      f.tape->backward();
      f.tape.reset();
    }
    f.out = {};
    if (here(virtual_stage_ - 1)) {
      const Carried carried = carried_in(a_->chunk);
      set_gradients(vars(at(on_.chunk_of(virtual_stage_ - 1)).out, carried), gradients(vars(f.in, carried)));
      f.in = {};
    }
  }

  const VirtualStages& on_;
  const int stage_;
  const int64_t hidden_size_;
  const PipelineWork& work_;
  const Stream stream_;
  Link& link_;
  std::map<std::pair<int, int>, InFlight> flight_;  // by micro-batch and chunk
  const Action* a_ = nullptr;                       // under way ...
  int virtual_stage_ = 0;                           // ... on this virtual stage
};

const Action* next_receive(const Schedule& schedule, size_t at) {
  const auto found = std::find_if(schedule.begin() + at, schedule.end(), [](const Action& a) {
    return a.kind == Action::receive_activation || a.kind == Action::receive_gradient;
  });
  return found == schedule.end() ? nullptr : &*found;
}

}  // namespace

Pipeline::Pipeline(const PipelineRanks& pp, const VirtualStages& on, int64_t hidden_size,
                   const Stream& stream, DType activations)
    : pp_(pp), on_(on), hidden_size_(hidden_size), stream_(stream), activations_(activations) {
  require(on.stages == pp.activations.size(),
          "pipeline: expected a rank for each of {} stages, found {} ranks", on.stages,
          pp.activations.size());
}

void Pipeline::run(const Schedule& schedule, const PipelineWork& work) const {
  Link link(pp_, on_, stream_, activations_);
  Run run(on_, pp_.activations.rank(), hidden_size_, work, stream_, link);
  for (size_t at = 0; at < schedule.size(); ++at) {
    if (const Action* const next = next_receive(schedule, at); next && schedule[at].computes())
      run.expect(*next);
    run.step(schedule[at]);
  }
  run.require_done();
  link.finish();
}

}  // namespace wuneng
