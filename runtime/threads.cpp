#include "runtime/threads.h"

#include <sched.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace wuneng {
namespace {

thread_local bool t_inside = false;

class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  }
  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (auto& w : workers_) w.join();
  }
  int size() const { return static_cast<int>(workers_.size()) + 1; }

  void run(int pieces, const std::function<void(int)>& piece) {
    {
      std::lock_guard lock(mutex_);
      piece_ = &piece;
      pieces_ = pieces;
      pending_ = pieces - 1;
      error_ = nullptr;
      ++generation_;
    }
    wake_.notify_all();
    t_inside = true;
    std::exception_ptr own;
    try {
      piece(0);
    } catch (...) {
      own = std::current_exception();
    }
    t_inside = false;
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return pending_ == 0; });
    if (own) std::rethrow_exception(own);
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void work(int index) {
    t_inside = true;
    uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return stop_ || generation_ != seen; });
      if (stop_) return;
      seen = generation_;
      if (index >= pieces_) continue;
      const auto* piece = piece_;
      lock.unlock();
      std::exception_ptr error;
      try {
        (*piece)(index);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      if (error) error_ = error;
      if (--pending_ == 0) done_.notify_one();
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int)>* piece_ = nullptr;
  std::exception_ptr error_;
  int pieces_ = 0, pending_ = 0;
  uint64_t generation_ = 0;
  bool stop_ = false;
};

int default_threads() {
  if (const char* text = std::getenv("WUNENG_THREADS")) return std::max(1, std::atoi(text));
  cpu_set_t set;
  CPU_ZERO(&set);
  int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  if (const char* local = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE")) cores /= std::max(1, std::atoi(local));
  return std::max(1, cores);
}

std::unique_ptr<Pool>& pool() {
  static std::unique_ptr<Pool> value = std::make_unique<Pool>(default_threads());
  return value;
}

}  // namespace

int thread_count() { return pool()->size(); }

void set_thread_count(int count) {
  if (count != thread_count()) pool() = std::make_unique<Pool>(std::max(1, count));
}

void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  if (n <= 0) return;
  const int64_t wanted = std::max<int64_t>(1, n / std::max<int64_t>(1, grain));
  const int pieces = t_inside ? 1 : static_cast<int>(std::min<int64_t>(wanted, thread_count()));
  if (pieces == 1) return body(0, n);
  pool()->run(pieces, [&](int i) { body(n * i / pieces, n * (i + 1) / pieces); });
}

}  // namespace wuneng
