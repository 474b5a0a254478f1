// ZB-V (arXiv 2405.15362): two model chunks a stage in a V, so that the first stage has the last chunk too,
// and backwards in halves, of which the weight halves wait where another stage needs an input's gradient.
// With F = B = W it idles for (p - 1) F, F of one chunk: the time until the last stage gets its first
// micro-batch, a sixth of 1F1B's. It holds as much as 1F1B's first stage and one chunk more. The order is
// that of DualPipeV (DeepSeek's DualPipe, cut in half).
#include <algorithm>
#include <deque>

#include "parallel/schedule.h"

namespace wuneng {
namespace {

// The actions of one stage for at least 2 p micro-batches; `wanted` of them are kept. Without the last ones
// the rest can still run in this order: nothing depends on another micro-batch.
class Order {
 public:
  explicit Order(int wanted) : wanted_(wanted) {}

  void forward(int chunk) { add(Action::forward, forwards_[chunk]++, chunk); }
  void backward_input(int chunk) {
    left_.push_back({Action::backward_weight, backwards_[chunk], chunk});
    add(Action::backward_input, backwards_[chunk]++, chunk);
  }
  // The oldest weight half that is left.
  void backward_weight() {
    add(Action::backward_weight, left_.front().micro_batch, left_.front().chunk);
    left_.pop_front();
  }
  void backward(int chunk) { backward_input(chunk), backward_weight(); }
  Schedule finish() {
    while (!left_.empty()) backward_weight();
    return std::move(actions_);
  }

 private:
  void add(Action::Kind kind, int micro_batch, int chunk) {
    if (micro_batch < wanted_) actions_.push_back({kind, micro_batch, chunk});
  }

  int wanted_;
  int forwards_[2] = {}, backwards_[2] = {};
  std::deque<Action> left_;
  Schedule actions_;
};

Schedule computations(const VirtualStages& on, int stage, int micro_batches) {
  const int behind = on.stages - stage - 1,  // stages between this one and the V's turn
      until_turn = stage + 1, all = std::max(micro_batches, 2 * on.stages);
  Order s(micro_batches);
  const auto repeat = [](int times, const auto& what) {
    for (int i = 0; i < times; ++i) what(i);
  };
  // The pipeline fills, down the V and up again.
  repeat(2 * behind, [&](int) { s.forward(0); });
  repeat(until_turn, [&](int) { s.forward(0), s.forward(1); });
  repeat(behind, [&](int) { s.backward_input(1), s.backward_weight(), s.forward(1); });
  // Every chunk forward and backward in turn.
  repeat(all - 2 * on.stages + until_turn,
         [&](int) { s.forward(0), s.backward(1), s.forward(1), s.backward(0); });
  // It empties: input halves first, so that no other stage waits for them.
  repeat(behind, [&](int) { s.backward(1), s.forward(1), s.backward(0); });
  repeat(2 * until_turn, [&](int i) {
    const int chunk = i % 2 == 0 ? 1 : 0;
    i < until_turn ? s.backward(chunk) : s.backward_input(chunk);
  });
  repeat(behind, [&](int) { s.backward_weight(), s.backward_input(0); });
  return s.finish();
}

int most_held(const VirtualStages& on, int, int micro_batches) {
  return std::min(2 * on.stages + 1, 2 * micro_batches);
}

}  // namespace

const PipelineSchedule zb_v{"zb_v", true, VirtualStages::v_shaped, computations, most_held, 2};

}  // namespace wuneng
