#include "runtime/clock_offset.h"

namespace wuneng {

// Of several questions to the first rank, the one that was answered soonest counts: its clock was read half
// way (Cristian 1989).
int64_t clock_offset(const Comm& ranks, const std::function<int64_t()>& now) {
  constexpr int kQuestions = 20, kTag = 0;
  const Tensor time = Tensor::zeros({1}, DType::i64);
  int64_t offset = 0;
  for (int rank = 1; rank < ranks.size(); ++rank) {
    int64_t soonest = INT64_MAX;
    for (int i = 0; i < kQuestions; ++i) {
      if (ranks.rank() == 0) {
        ranks.recv(time, rank, kTag, "clock: question");
        time.data<int64_t>()[0] = now();
        ranks.send(time, rank, kTag, "clock: answer");
      } else if (ranks.rank() == rank) {
        const int64_t asked = now();
        ranks.send(time, 0, kTag, "clock: question");
        ranks.recv(time, 0, kTag, "clock: answer");
        const int64_t answered = now();
        if (answered - asked >= soonest) continue;
        soonest = answered - asked;
        offset = time.data<int64_t>()[0] - (asked + soonest / 2);
      }
    }
  }
  return offset;
}

}  // namespace wuneng
