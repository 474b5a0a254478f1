#include "parallel/pipeline.h"

#include <algorithm>
#include <map>
#include <optional>

namespace wuneng {
namespace {

enum class Way { forward, backward };

// This stage's messages with the stages beside it. Sent buffers are kept by their requests, which are let go
// at the next send when they have ended, so that a slow receiver costs memory rather than time.
class Link {
 public:
  Link(const Comm& pp, Stream stream, int64_t hidden_size, DType dtype)
      : pp_(pp), stream_(stream), hidden_size_(hidden_size), dtype_(dtype) {}

  // Has the next message that will be received come while this stage still computes.
  void expect(int micro_batch, int64_t rows, int peer, Way way) {
    const int key = tag(micro_batch, way);
    if (expected_.contains(key)) return;
    const Tensor buffer = Tensor::empty({rows, hidden_size_}, dtype_, stream_.device);
    expected_.emplace(key, Expected{buffer, pp_.irecv(buffer, peer, key, name(way))});
  }

  Tensor receive(int micro_batch, int64_t rows, int peer, Way way) {  // [T, d]
    expect(micro_batch, rows, peer, way);
    auto [buffer, request] = std::move(expected_.extract(tag(micro_batch, way)).mapped());
    request.wait();
    return buffer;
  }

  void send(const Tensor& tensor, int micro_batch, int64_t rows, int peer, Way way) {  // [T, d]
    require(tensor.shape() == Shape{rows, hidden_size_} && tensor.dtype() == dtype_,
            "{} of micro-batch {} to stage {}: expected {}{}, found {}{}", name(way), micro_batch, peer,
            to_string(dtype_), to_string(Shape{rows, hidden_size_}), to_string(tensor.dtype()),
            to_string(tensor.shape()));
    std::erase_if(sends_, [](Request& r) { return r.done(); });
    sends_.push_back(pp_.isend(tensor, peer, tag(micro_batch, way), name(way)));
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
  static int tag(int micro_batch, Way way) { return 2 * micro_batch + (way == Way::backward); }
  static const char* name(Way way) {
    return way == Way::forward ? "pipeline activation" : "pipeline gradient";
  }

  const Comm& pp_;
  Stream stream_;
  int64_t hidden_size_;
  DType dtype_;
  std::map<int, Expected> expected_;  // by tag
  std::vector<Request> sends_;
};

// A micro-batch on its way through the stage.
struct InFlight {
  std::optional<Tape> tape;
  Var hidden, out;
};

bool computes(const Action& action) {
  return action.kind == Action::forward || action.kind == Action::backward;
}

const Action* next_receive(const Schedule& schedule, size_t at) {
  const auto found = std::find_if(schedule.begin() + at, schedule.end(), [](const Action& a) {
    return a.kind == Action::receive_activation || a.kind == Action::receive_gradient;
  });
  return found == schedule.end() ? nullptr : &*found;
}

}  // namespace

void Pipeline::run(const Schedule& schedule, const PipelineWork& work) const {
  const int stage = pp_.rank();
  Link link(pp_, stream_, hidden_size_, activations_);
  std::map<int, InFlight> flight;
  for (size_t at = 0; at < schedule.size(); ++at) {
    const Action& action = schedule[at];
    const int m = action.micro_batch;
    if (const Action* const next = next_receive(schedule, at); next && computes(action)) {
      const bool forward = next->kind == Action::receive_activation;
      link.expect(next->micro_batch, work.rows(next->micro_batch), forward ? stage - 1 : stage + 1,
                  forward ? Way::forward : Way::backward);
    }
    InFlight& f = flight[m];
    switch (action.kind) {
      case Action::receive_activation:
        f.hidden = Var(link.receive(m, work.rows(m), stage - 1, Way::forward), work.train);
        break;
      case Action::forward:
        f.tape.emplace(stream_, work.train);
        f.out = work.forward(*f.tape, m, f.hidden);
        if (work.forward_done) work.forward_done(m);
        if (!work.train && last_stage()) flight.erase(m);
        break;
      case Action::send_activation:
        link.send(f.out.value(), m, work.rows(m), stage + 1, Way::forward);
        if (!work.train) flight.erase(m);
        break;
      case Action::receive_gradient:
        f.out.set_grad(link.receive(m, work.rows(m), stage + 1, Way::backward));
        break;
      case Action::backward:
        require(work.train && f.tape,
                "pipeline stage {}, {}: expected a recorded forward before it, found none", stage,
                to_string(action));
        if (last_stage()) {
          require(f.out.shape() == Shape{1}, "pipeline stage {}, {}: expected a loss [1], found {}", stage,
                  to_string(action), to_string(f.out.shape()));
          f.out.set_grad(Tensor::from<float>({1.0f}, {1}));
        }
        f.tape->backward();
        f.out = {};
        if (first_stage()) flight.erase(m);
        break;
      case Action::send_gradient:
        // A stage that does not read its input still owes the stage before it a gradient: zero.
        link.send(f.hidden.grad_buffer(), m, work.rows(m), stage - 1, Way::backward);
        flight.erase(m);
        break;
    }
  }
  link.finish();
}

}  // namespace wuneng
