#include "launch/training_data.h"

#include <algorithm>

namespace wuneng {

TrainingData::TrainingData(const TrainRecipe& r)
    : corpus_(open_byte_corpus(r.corpus)), accumulation_(r.accumulation), dp_(r.layout.dp) {
  for (const auto& [whose, vocab] : {std::pair<const char*, int64_t>{"student", r.student.vocab_size},
                                     {"teacher", r.teacher ? r.teacher->vocab_size : INT64_MAX}})
    require(corpus_->vocab_size() <= vocab, "data: byte tokens need a vocabulary of {}, the {} has {}",
            corpus_->vocab_size(), whose, vocab);
  source_ = std::make_unique<BatchSource>(
      *corpus_, BatchOptions{.seq_len = r.seq_len, .micro_batch = r.micro_batch, .seed = r.data_seed});
  const int64_t held_out = std::min(r.eval_batches, source_->held_out_count()),
                per_round = r.accumulation * r.layout.dp;
  require(r.eval_every == 0 || held_out > 0,
          "data: run.eval_every = {} but nothing is held out (data.held_out_every, run.eval_batches)",
          r.eval_every);
  rounds_ = plan_rounds(r.steps(), r.eval_every, (held_out + per_round - 1) / per_round);
}

MicroBatch TrainingData::micro_batch(const Round& round, int m, int dp_rank) const {
  const int64_t index = ((round.trains ? round.step : round.part) * accumulation_ + m) * dp_ + dp_rank;
  const Batch b = round.trains ? source_->get(index) : source_->held_out(index);
  const int64_t rows = static_cast<int64_t>(b.tokens.size());
  return {Tensor::from(b.tokens, {rows}), Tensor::from(b.labels, {rows}), b.documents};
}

std::string TrainingData::fingerprint() const { return fmt::format("{:016x}", corpus_->fingerprint()); }

}  // namespace wuneng
