#include "parallel/pipeline.h"

#include <algorithm>
#include <map>
#include <optional>

namespace wuneng {
namespace {

enum class Direction { forward, backward };

// A hidden state from a virtual stage to the next, or its gradient back.
struct Message {
  int micro_batch;
  int made_by;  // the virtual stage whose hidden state it is
  Direction direction;
};

// This stage's messages with other stages. Sent buffers are kept by their requests, which are let go at the
// next send when they have ended, so that a slow receiver costs memory rather than time.
class Link {
 public:
  Link(const Comm& pp, const VirtualStages& on, Stream stream, int64_t hidden_size, DType dtype)
      : pp_(pp), on_(on), stream_(stream), hidden_size_(hidden_size), dtype_(dtype) {}

  // Has the next message that will be received come while this stage still computes.
  void expect(const Message& message, int64_t rows) {
    const int key = tag(message);
    if (expected_.contains(key)) return;
    const int peer =
        on_.stage_of(message.direction == Direction::forward ? message.made_by : message.made_by + 1);
    const Tensor buffer = Tensor::empty({rows, hidden_size_}, dtype_, stream_.device);
    expected_.emplace(key, Expected{buffer, pp_.irecv(buffer, peer, key, name(message))});
  }

  Tensor receive(const Message& message, int64_t rows) {  // [T, d]
    expect(message, rows);
    auto [buffer, request] = std::move(expected_.extract(tag(message)).mapped());
    request.wait();
    return buffer;
  }

  void send(const Tensor& tensor, const Message& message, int64_t rows) {  // [T, d]
    const int peer =
        on_.stage_of(message.direction == Direction::forward ? message.made_by + 1 : message.made_by);
    require_shape(tensor, message, rows, peer);
    std::erase_if(sends_, [](Request& r) { return r.done(); });
    sends_.push_back(pp_.isend(tensor, peer, tag(message), name(message)));
  }

  void require_shape(const Tensor& tensor, const Message& message, int64_t rows, int peer) const {
    require(tensor.shape() == Shape{rows, hidden_size_} && tensor.dtype() == dtype_,
            "{} of micro-batch {} to stage {}: expected {}{}, found {}{}", name(message), message.micro_batch,
            peer, to_string(dtype_), to_string(Shape{rows, hidden_size_}), to_string(tensor.dtype()),
            to_string(tensor.shape()));
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

  // The tag tells messages of one pair of ranks apart, whatever the order in which either side names them.
  int tag(const Message& message) const {
    return 2 * (message.micro_batch * on_.chunks + on_.chunk_of(message.made_by)) +
           (message.direction == Direction::backward);
  }
  static const char* name(const Message& message) {
    return message.direction == Direction::forward ? "pipeline activation" : "pipeline gradient";
  }

  const Comm& pp_;
  const VirtualStages& on_;
  Stream stream_;
  int64_t hidden_size_;
  DType dtype_;
  std::map<int, Expected> expected_;  // by tag
  std::vector<Request> sends_;
};

// A micro-batch in a model chunk. Each part is let go when nothing needs it any more:
struct InFlight {
  std::optional<Tape> tape;  // when its gradients are complete
  Var hidden;                // when its gradient has been passed on
  Var out;  // when it has been passed on and, in training, its backward or input half is done

  bool done() const { return !tape && !hidden.defined() && !out.defined(); }
};

// One run of a stage's schedule.
class Run {
 public:
  Run(const VirtualStages& on, int stage, const PipelineWork& work, Stream stream, Link& link)
      : on_(on), stage_(stage), work_(work), stream_(stream), link_(link) {}

  void step(const Action& action) {
    a_ = &action;
    virtual_stage_ = on_.at(stage_, action.chunk);
    if (!action.computes()) {
      const int peer = virtual_stage_ + (action.with_next() ? 1 : -1);
      require(peer >= 0 && peer < on_.count() && !here(peer),
              "pipeline stage {}, {}: expected a virtual stage {} on another rank, found none", stage_,
              to_string(action), action.with_next() ? "after this one" : "before this one");
    }
    InFlight& f = at(action.chunk);
    switch (action.kind) {
      case Action::receive_activation:
        f.hidden = Var(link_.receive(from_previous(Direction::forward), rows()), work_.train);
        break;
      case Action::forward:
        forward(f);
        break;
      case Action::send_activation:
        link_.send(f.out.value(), to_next(Direction::forward), rows());
        if (!work_.train) f.out = {};
        break;
      case Action::receive_gradient:
        f.out.set_grad(link_.receive(to_next(Direction::backward), rows()));
        break;
      case Action::backward:
      case Action::backward_input:
        backward(f);
        break;
      case Action::backward_weight:
        require(f.tape && !f.out.defined(),
                "pipeline stage {}, {}: expected its backward_input before it, found none", stage_,
                to_string(action));
        f.tape->backward_weights();
        f.tape.reset();
        break;
      case Action::send_gradient:
        require(f.hidden.defined() && !f.out.defined(),
                "pipeline stage {}, {}: expected its backward or backward_input before it, found none",
                stage_, to_string(action));
        // A chunk that does not read its input still owes the previous one a gradient: zero.
        link_.send(f.hidden.grad_buffer(), from_previous(Direction::backward), rows());
        f.hidden = {};
        break;
    }
    std::erase_if(flight_, [](const auto& entry) { return entry.second.done(); });
  }

  void expect(const Action& receive) {
    const int v = on_.at(stage_, receive.chunk);
    const bool forward = receive.kind == Action::receive_activation;
    link_.expect(
        {receive.micro_batch, forward ? v - 1 : v, forward ? Direction::forward : Direction::backward},
        work_.rows(receive.micro_batch));
  }

  void require_done() const {
    for (const auto& [key, f] : flight_)
      fail("pipeline stage {}, after the schedule's last action: micro-batch {} of chunk {} has not been {}",
           stage_, key.first, key.second,
           !f.tape           ? "passed on"
           : f.out.defined() ? "taken backward"
                             : "through its backward_weight");
  }

 private:
  InFlight& at(int chunk) { return flight_[{a_->micro_batch, chunk}]; }
  int64_t rows() const { return work_.rows(a_->micro_batch); }
  bool first() const { return virtual_stage_ == 0; }
  bool last() const { return virtual_stage_ == on_.count() - 1; }
  // The messages with the previous and the next virtual stage.
  Message from_previous(Direction direction) const {
    return {a_->micro_batch, virtual_stage_ - 1, direction};
  }
  Message to_next(Direction direction) const { return {a_->micro_batch, virtual_stage_, direction}; }
  // Is the virtual stage v one of this stage's chunks?
  bool here(int v) const { return v >= 0 && v < on_.count() && on_.stage_of(v) == stage_; }

  void forward(InFlight& f) {
    require(first() || f.hidden.defined(),
            "pipeline stage {}, {}: expected its hidden state before it, found none", stage_, to_string(*a_));
    f.tape.emplace(stream_, work_.train);
    f.out = work_.forward(*f.tape, a_->micro_batch, a_->chunk, f.hidden);
    if (here(virtual_stage_ + 1)) {
      link_.require_shape(f.out.value(), to_next(Direction::forward), rows(), stage_);
      at(on_.chunk_of(virtual_stage_ + 1)).hidden = Var(f.out.value(), work_.train);
    }
    if (work_.train) return;
    f.tape.reset();
    f.hidden = {};
    if (last() || here(virtual_stage_ + 1)) f.out = {};
  }

  void backward(InFlight& f) {
    require(work_.train && f.tape && f.out.defined(),
            "pipeline stage {}, {}: expected a recorded forward before it, found none", stage_,
            to_string(*a_));
    if (last()) {
      require(f.out.shape() == Shape{1}, "pipeline stage {}, {}: expected a loss [1], found {}", stage_,
              to_string(*a_), to_string(f.out.shape()));
      f.out.set_grad(Tensor::from<float>({1.0f}, {1}));
    }
    require(f.out.has_grad(),
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
      at(on_.chunk_of(virtual_stage_ - 1)).out.set_grad(f.hidden.grad_buffer());
      f.hidden = {};
    }
  }

  const VirtualStages& on_;
  const int stage_;
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

Pipeline::Pipeline(const Comm& pp, const VirtualStages& on, int64_t hidden_size, const Stream& stream,
                   DType activations)
    : pp_(pp), on_(on), hidden_size_(hidden_size), stream_(stream), activations_(activations) {
  require(on.stages == pp.size(), "pipeline: expected a rank for each of {} stages, found {} ranks",
          on.stages, pp.size());
}

void Pipeline::run(const Schedule& schedule, const PipelineWork& work) const {
  Link link(pp_, on_, stream_, hidden_size_, activations_);
  Run run(on_, pp_.rank(), work, stream_, link);
  for (size_t at = 0; at < schedule.size(); ++at) {
    if (const Action* const next = next_receive(schedule, at); next && schedule[at].computes())
      run.expect(*next);
    run.step(schedule[at]);
  }
  run.require_done();
  link.finish();
}

}  // namespace wuneng
