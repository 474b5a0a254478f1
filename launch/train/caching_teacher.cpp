#include "launch/train/caching_teacher.h"

#include "runtime/watchdog.h"

namespace wuneng {
namespace {

using Clock = std::chrono::steady_clock;

}  // namespace

CachingTeacher::CachingTeacher(std::unique_ptr<TeacherSource> teacher, const TrainRecipe& r, int stage,
                               int64_t room, const std::vector<MicroBatch>& batches,
                               std::function<void(const std::string&)> say)
    : teacher_(std::move(teacher)),
      recipe_(r),
      batches_(batches),
      say_(std::move(say)),
      signals_(cached_signals(r, stage)),
      store_(r.cache),
      room_(room),
      thread_([this] { work(); }) {}

CachingTeacher::~CachingTeacher() {
  {
    const std::lock_guard lock(mutex_);
    queue_.clear();
  }
  end_thread();
}

void CachingTeacher::end_thread() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

const SignalParts& CachingTeacher::take(int64_t pass, int micro_batch) {
  const SignalParts& parts = teacher_->take(pass, micro_batch);
  hand_over();
  const MicroBatch& batch = batches_[micro_batch];
  for (int64_t i = 0; i < recipe_.micro_batch; ++i)
    taken_.keys.push_back(sequence_key(batch, i, recipe_.seq_len));
  for (const CachedSignal* s : wanted()) {
    const std::vector<SignalPart>& found = parts.of(s->signal.name);
    require(found.size() == 1 && found[0].rows == Range{0, batch.rows()} &&
                found[0].columns == Range{0, s->signal.width},
            "teacher.cache: signal '{}': expected one part with all rows and columns, found {} parts",
            s->signal.name, found.size());
    taken_.values.emplace_back(s, found[0].values);
  }
  return parts;
}

// The signals that not all of the sequences taken last have in the cache.
std::vector<const CachedSignal*> CachingTeacher::wanted() {
  std::vector<const CachedSignal*> out;
  std::unique_lock lock(mutex_);
  const bool full = full_;
  for (const CachedSignal& s : signals_)
    if (!full && !std::all_of(taken_.keys.begin(), taken_.keys.end(), [&](const auto& key) {
          return done_.contains({key, s.kind});
        }))
      out.push_back(&s);
  lock.unlock();
  if (full && !said_)
    say_(
        fmt::format("teacher.cache: its share of teacher.cache_gb = {} is full: no more is added, and a run "
                    "with teacher.mode = \"cached\" will not find all sequences",
                    recipe_.cache_gb));
  said_ = said_ || full;
  return out;
}

void CachingTeacher::hand_over() {
  const int64_t L = recipe_.seq_len;
  Job job;
  for (auto& [signal, copy] : taken_.values) {
    const Tensor& values = copy.read("teacher's signal for the cache");
    for (size_t i = 0; i < taken_.keys.size(); ++i) {
      const int64_t row = static_cast<int64_t>(i) * L;
      job.records.push_back({{taken_.keys[i], signal->kind}, values.rows(row, row + L)});
    }
    job.copies.push_back(std::move(copy));
  }
  taken_ = {};
  std::unique_lock lock(mutex_);
  const auto has_room = [&] { return queue_.size() < kMostQueued || !problem_.empty(); };
  if (!has_room()) {
    const watchdog::Waiting waiting("the disk of teacher.cache = " + recipe_.cache);
    const Clock::time_point begin = Clock::now();
    changed_.wait(lock, has_room);
    waited_ += std::chrono::duration<double>(Clock::now() - begin).count();
  }
  require(problem_.empty(), "teacher.cache: {}", problem_);
  if (job.records.empty()) return;
  queue_.push_back(std::move(job));
  changed_.notify_all();
}

void CachingTeacher::finish() {
  teacher_->finish();
  hand_over();
  end_thread();
  require(problem_.empty(), "teacher.cache: {}", problem_);
  store_.sync();
  totals_.waited = waited_;
}

void CachingTeacher::work() try {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return ends_ || !queue_.empty(); });
    if (queue_.empty()) return;
    const Job job = std::move(queue_.front());
    lock.unlock();
    store(job);
    lock.lock();
    if (!queue_.empty()) queue_.pop_front();
    changed_.notify_all();
  }
} catch (const std::exception& e) {
  const std::lock_guard lock(mutex_);
  problem_ = e.what();
  changed_.notify_all();
}

// Other ranks' records, in at most a hundredth of this thread's time.
void CachingTeacher::refresh() {
  const Clock::time_point begin = Clock::now();
  if (begin - refreshed_ < 100 * refresh_took_) return;
  store_.refresh();
  refreshed_ = Clock::now();
  refresh_took_ = refreshed_ - begin;
}

void CachingTeacher::store(const Job& job) {
  refresh();
  for (const auto& [id, values] : job.records) {
    {
      const std::lock_guard lock(mutex_);
      if (full_) return;
      if (done_.contains(id)) continue;
    }
    const bool known = store_.has(id), whole = known && store_.problem(id, values.bytes()).empty();
    const int64_t bytes = RecordStore::bytes_with(values.bytes());
    const bool fits = bytes <= room_ && double(store_.bytes() + bytes) <= recipe_.cache_gb * 1e9;
    if (!whole && fits) {
      store_.append(id, values.raw(), values.bytes());
      room_ -= bytes;
      totals_.added_bytes += double(bytes);
    }
    const std::lock_guard lock(mutex_);
    if (whole || fits) done_.insert(id);
    full_ = !whole && !fits;
    ++(whole ? totals_.found : full_ ? totals_.full : known ? totals_.repaired : totals_.added);
  }
}

std::unique_ptr<TeacherSource> cache_signals(std::unique_ptr<TeacherSource> teacher, const TrainRecipe& r,
                                             const Mesh& mesh, const std::vector<MicroBatch>& batches,
                                             std::function<void(const std::string&)> say) {
  double all = 0, mine = 0;
  for (const CachedSignal& s : cached_signals(r)) all += double(s.bytes);
  for (const CachedSignal& s : cached_signals(r, mesh.pp_rank)) mine += double(s.bytes);
  const int64_t found = mesh.role_comm.rank() == 0 ? RecordStore(r.cache).bytes() : 0;
  const double used = mesh.role_comm.all_reduce(double(found), Reduce::max, "bytes in teacher.cache"),
               room = std::max(0.0, r.cache_gb * 1e9 - used) * mine / all / mesh.layout.dp;
  if (mine == 0 || mesh.tp_rank > 0) return teacher;
  return std::make_unique<CachingTeacher>(std::move(teacher), r, mesh.pp_rank, static_cast<int64_t>(room),
                                          batches, std::move(say));
}

std::string describe_cached(const TeacherSource& teacher, const TrainRecipe& r, const Mesh& mesh) {
  const auto* caching = dynamic_cast<const CachingTeacher*>(&teacher);
  const CachingTeacher::Totals t = caching ? caching->totals() : CachingTeacher::Totals();
  const Tensor sums = Tensor::from<double>({t.added, t.added_bytes, t.found, t.repaired, t.full}, {5});
  mesh.role_comm.all_reduce(sums, Reduce::sum, "what was added to teacher.cache");
  const double waited = mesh.role_comm.all_reduce(t.waited, Reduce::max, "waited for teacher.cache's disk"),
               *of = sums.data<double>();
  return fmt::format(
      "teacher.cache: {:.0f} records added to {} ({:.4g} GB), {:.0f} were there, {:.0f} were damaged and are "
      "written again{}; a rank waited for its disk for at most {:.2f} s",
      of[0], r.cache, of[1] / 1e9, of[2], of[3],
      of[4] > 0 ? fmt::format("; teacher.cache_gb = {} has no room for the rest", r.cache_gb) : "", waited);
}

}  // namespace wuneng
