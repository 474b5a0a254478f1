// A teacher's signals from the cache on disk (teacher.mode = "cached"), in place of a teacher.
#pragma once
#include <optional>

#include "launch/train/signal_cache.h"
#include "parallel/mesh.h"

namespace wuneng {

class CachedTeacher : public TeacherSource {
 public:
  // Collective over the student's ranks. Looks up every sequence of the run's passes from `first_pass` on;
  // where one is missing all ranks throw. `data` outlives this.
  CachedTeacher(const TrainRecipe& recipe, const Mesh& mesh, const TrainingData& data, int64_t first_pass,
                Device device);

  // Of this stage's signals one part each, with all rows and columns. Read from the disk on other threads,
  // teacher.credits micro-batches ahead, so micro-batches are taken in order.
  const SignalParts& take(int64_t pass, int micro_batch) override;
  void release() override { parts_.clear(); }

 private:
  MicroBatch batch(int64_t number) const;  // the number-th of this replica's, counted through all passes
  std::string describe(int64_t number, int64_t position) const;
  void look_up(const Mesh& mesh, int64_t first, int64_t end) const;
  std::vector<Tensor> read(int64_t number) const;  // by signal, [T, sent columns] on the host

  const TrainRecipe& recipe_;
  const TrainingData& data_;
  int dp_rank_;
  Device device_;
  std::vector<CachedSignal> signals_;  // of this stage
  RecordStore store_;
  SignalParts parts_;
  int64_t next_;                                            // the number that is taken next
  std::optional<Prefetcher<std::vector<Tensor>>> ahead_{};  // its threads read what is above
};

}  // namespace wuneng
