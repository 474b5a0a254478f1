#include "launch/train/cached_teacher.h"

#include "runtime/collective_error.h"
#include "runtime/format.h"
#include "runtime/watchdog.h"

namespace wuneng {

CachedTeacher::CachedTeacher(const TrainRecipe& r, const Mesh& mesh, const TrainingData& data,
                             int64_t first_pass, Device device)
    : recipe_(r),
      data_(data),
      dp_rank_(mesh.dp_rank),
      device_(device),
      signals_(cached_signals(r, mesh.pp_rank)),
      store_(r.cache),
      next_(first_pass * r.accumulation) {
  const int64_t end = static_cast<int64_t>(data.passes().size()) * r.accumulation;
  look_up(mesh, next_, end);
  if (!signals_.empty())
    ahead_.emplace([this](int64_t number) { return read(number); }, next_, end, r.credits, r.data_threads);
}

MicroBatch CachedTeacher::batch(int64_t number) const {
  return data_.batch(data_.passes()[number / recipe_.accumulation],
                     static_cast<int>(number % recipe_.accumulation), dp_rank_);
}

std::string CachedTeacher::describe(int64_t number, int64_t position) const {
  const Pass& pass = data_.passes()[number / recipe_.accumulation];
  const int micro_batch = static_cast<int>(number % recipe_.accumulation);
  return fmt::format("{} micro-batch {} replica {}: sequence {} of the {} data",
                     pass.trains ? fmt::format("step {}", pass.step + 1)
                                 : fmt::format("evaluation after step {} part {}", pass.step, pass.part),
                     micro_batch, dp_rank_, data_.first_sequence(pass, micro_batch, dp_rank_) + position,
                     pass.trains ? "training" : "held-out");
}

void CachedTeacher::look_up(const Mesh& mesh, int64_t first, int64_t end) const {
  watchdog::enter("looking up the run's sequences in teacher.cache");
  int64_t missing = 0, all = 0;
  std::string first_missing;
  for (int64_t number = first; number < end && !signals_.empty(); ++number) {
    const MicroBatch micro_batch = batch(number);
    for (int64_t i = 0; i < recipe_.micro_batch; ++i, ++all) {
      const auto key = sequence_key(micro_batch, i, recipe_.seq_len);
      const bool there = std::all_of(signals_.begin(), signals_.end(), [&](const CachedSignal& s) {
        return store_.has({key, s.kind});
      });
      if (!there && missing++ == 0) first_missing = describe(number, i);
    }
  }
  const std::string damage = store_.damage();
  require_no_problem(
      mesh.role_comm,
      missing == 0
          ? ""
          : fmt::format("{}: teacher.mode = \"cached\": replica {}, stage {}: {} of the {} sequences of its "
                        "passes are not in {}, the first of them {}{}: the same recipe with the teacher "
                        "(teacher.mode = \"stream\" or \"colocated\") adds them; teacher.cache_gb must have "
                        "room for all",
                        recipe_.path, dp_rank_, mesh.pp_rank, thousands(missing), thousands(all),
                        recipe_.cache, first_missing, damage.empty() ? "" : " (" + damage + ")"),
      "looking up the run's sequences in teacher.cache");
}

std::vector<Tensor> CachedTeacher::read(int64_t number) const {
  const MicroBatch micro_batch = batch(number);
  const int64_t L = recipe_.seq_len;
  std::vector<Tensor> out;
  for (const CachedSignal& s : signals_)
    out.push_back(SignalPart::empty(s.signal, {0, micro_batch.rows()}, {0, s.signal.width}, {}).values);
  for (int64_t i = 0; i < recipe_.micro_batch; ++i) {
    const auto key = sequence_key(micro_batch, i, L);
    for (size_t s = 0; s < signals_.size(); ++s) try {
        store_.read({key, signals_[s].kind}, out[s].rows(i * L, (i + 1) * L).raw(), signals_[s].bytes);
      } catch (const Error& e) {
        fail("teacher.mode = \"cached\": {}: signal {}: {}: the same recipe with the teacher writes it again",
             describe(number, i), signals_[s].signal.name, e.what());
      }
  }
  return out;
}

const SignalParts& CachedTeacher::take(int64_t pass, int micro_batch) {
  if (!ahead_) return parts_;
  require(pass * recipe_.accumulation + micro_batch == next_,
          "teacher.mode = \"cached\": expected micro-batch {} to be taken next, found {}", next_,
          pass * recipe_.accumulation + micro_batch);
  ++next_;
  const std::vector<Tensor> values = ahead_->next();
  for (size_t s = 0; s < signals_.size(); ++s) {
    const TeacherSignal& signal = signals_[s].signal;
    parts_.expect(signal.name);
    parts_.add(signal.name, {{0, values[s].dim(0)}, {0, signal.width}, values[s].to(device_)});
  }
  return parts_;
}

}  // namespace wuneng
