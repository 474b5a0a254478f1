// CachingTeacher: a teacher whose signals are added to the cache on disk as they are taken (teacher.cache).
//
// What the cache has already is read once and written again where it is damaged. A thread of its own reads
// and writes; take() waits for it where kMostQueued micro-batches are not written yet. A write that fails is
// an error of the run.
#pragma once
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <unordered_set>

#include "launch/train/signal_cache.h"
#include "parallel/mesh.h"
#include "runtime/host_copy.h"

namespace wuneng {

class CachingTeacher : public TeacherSource {
 public:
  static constexpr size_t kMostQueued = 4;

  struct Totals {
    double added = 0, added_bytes = 0;  // records
    double found = 0, repaired = 0;     // records that were there: whole, and damaged and added again
    double full = 0;                    // 1: there was no room for a record
    double waited = 0;                  // seconds, for the disk
  };

  // room: the most bytes that this rank adds. batches: the micro-batches of the pass under way, which outlive
  // this. say: tells the user something.
  CachingTeacher(std::unique_ptr<TeacherSource> teacher, const TrainRecipe& recipe, int stage, int64_t room,
                 const std::vector<MicroBatch>& batches, std::function<void(const std::string&)> say);
  ~CachingTeacher() override;  // what has not been written is lost: see finish()

  const SignalParts& take(int64_t pass, int micro_batch) override;
  void release() override { teacher_->release(); }
  void stop(int64_t next, int64_t end) override { teacher_->stop(next, end); }
  void finish() override;  // all that was taken is on the disk

  const Totals& totals() const { return totals_; }  // after finish()

 private:
  struct Record {
    RecordId id;
    Tensor values;  // a view of one of a Job's copies
  };
  struct Job {
    std::vector<HostCopy> copies;
    std::vector<Record> records;
  };
  struct Taken {
    std::vector<std::array<uint64_t, 2>> keys;                     // of the sequences
    std::vector<std::pair<const CachedSignal*, HostCopy>> values;  // [T, sent columns]
  };
  std::vector<const CachedSignal*> wanted();
  void hand_over();  // what was taken last, to the thread
  void work();
  void store(const Job& job);
  void refresh();
  void end_thread();

  std::unique_ptr<TeacherSource> teacher_;
  const TrainRecipe& recipe_;
  const std::vector<MicroBatch>& batches_;
  std::function<void(const std::string&)> say_;
  const std::vector<CachedSignal> signals_;  // of this rank's stage
  Taken taken_;
  bool said_ = false;
  double waited_ = 0;

  // The thread's alone, but before it starts and after it ends.
  RecordStore store_;
  int64_t room_;
  Totals totals_;
  std::chrono::steady_clock::time_point refreshed_{};
  std::chrono::steady_clock::duration refresh_took_{};

  std::mutex mutex_;  // of all below
  std::condition_variable changed_;
  std::deque<Job> queue_;
  std::unordered_set<RecordId, RecordIdHash> done_;  // in the cache and whole
  std::string problem_;                              // that ended the thread
  bool full_ = false, ends_ = false;
  std::thread thread_;
};

// Collective over the student's ranks: `teacher`, with a CachingTeacher before it on the ranks that add to
// recipe.cache: the first tensor-parallel rank of each stage that has signals. They share the room that
// teacher.cache_gb leaves in proportion to their signals' bytes.
std::unique_ptr<TeacherSource> cache_signals(std::unique_ptr<TeacherSource> teacher,
                                             const TrainRecipe& recipe, const Mesh& mesh,
                                             const std::vector<MicroBatch>& batches,
                                             std::function<void(const std::string&)> say);
// Collective over the student's ranks, at the end: for the user. teacher: what cache_signals gave.
std::string describe_cached(const TeacherSource& teacher, const TrainRecipe& recipe, const Mesh& mesh);

}  // namespace wuneng
