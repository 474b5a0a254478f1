#include "parallel/pipeline.h"

#include <map>
#include <optional>

namespace wuneng {
namespace {

// A micro-batch on its way through the stage.
struct InFlight {
  std::optional<Tape> tape;
  Var hidden, out;
};

}  // namespace

void run_pipeline(const Comm& pp, const Schedule& schedule, const PipelineWork& work, bool trains, const Stream& stream) {
  const int stage = pp.rank(), last = pp.size() - 1;
  std::map<int, InFlight> flight;
  std::vector<Request> sends;
  const auto tag = [](int m, bool gradient) { return 2 * m + gradient; };
  const auto receive = [&](int m, int peer, bool gradient) {
    const Tensor buffer = Tensor::empty({work.rows(m), work.hidden_size});
    pp.recv(buffer, peer, tag(m, gradient), gradient ? "pipeline gradient" : "pipeline activation");
    return buffer;
  };
  const auto send = [&](const Tensor& tensor, int m, int peer, bool gradient) {
    std::erase_if(sends, [](Request& r) { return r.done(); });
    sends.push_back(pp.isend(tensor, peer, tag(m, gradient), gradient ? "pipeline gradient" : "pipeline activation"));
  };
  for (const Action& action : schedule) {
    const int m = action.micro_batch;
    InFlight& f = flight[m];
    switch (action.kind) {
      case Action::receive_activation: f.hidden = Var(receive(m, stage - 1, false), trains); break;
      case Action::forward:
        f.tape.emplace(stream, trains);
        f.out = work.forward(*f.tape, m, f.hidden);
        if (!trains && stage == last) flight.erase(m);
        break;
      case Action::send_activation:
        send(f.out.value(), m, stage + 1, false);
        if (!trains) flight.erase(m);
        break;
      case Action::receive_gradient: f.out.set_grad(receive(m, stage + 1, true)); break;
      case Action::backward:
        if (stage == last) f.out.set_grad(Tensor::from<float>({1.0f}, {1}));
        f.tape->backward();
        if (stage == 0) flight.erase(m);
        break;
      case Action::send_gradient:
        f.hidden.grad_buffer();  // zero where nothing reached it
        send(f.hidden.grad(), m, stage - 1, true);
        flight.erase(m);
        break;
    }
  }
  for (Request& r : sends) r.wait();
}

}  // namespace wuneng
