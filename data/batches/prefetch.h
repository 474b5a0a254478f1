// Prefetcher: prepares the next items (micro-batches) on background threads while a step runs.
#pragma once
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <deque>
#include <functional>
#include <future>
#include <memory>

#include "runtime/error.h"

namespace wuneng {

// Items first, first + 1, ..., end - 1 in order. Each is a pure function of its number, so the result does
// not depend on the number of threads or of items ahead.
template <class T>
class Prefetcher {
 public:
  using Make = std::function<T(int64_t number)>;  // called concurrently

  Prefetcher(Make make, int64_t first, int64_t end, int ahead, int threads = 1)
      : make_(std::move(make)), number_(first), end_(end), pool_(static_cast<size_t>(threads)) {
    require(ahead > 0 && threads > 0, "data: {} ahead on {} threads: expected both > 0", ahead, threads);
    for (int i = 0; i < ahead; ++i) start_one();
  }
  ~Prefetcher() {
    pool_.stop();  // discards items that have not started
    pool_.join();
  }

  // Returns the next item, or throws what `make` threw. At most `ahead` items are ready or in progress.
  T next() {
    WUNENG_ASSERT(!pending_.empty());
    using Clock = std::chrono::steady_clock;
    std::future<T> front = std::move(pending_.front());
    pending_.pop_front();
    const Clock::time_point begin = Clock::now();
    front.wait();
    seconds_waited_ += std::chrono::duration<double>(Clock::now() - begin).count();
    start_one();
    return front.get();
  }
  // Time that next() has waited for items that were not ready.
  double seconds_waited() const { return seconds_waited_; }

 private:
  void start_one() {
    if (number_ >= end_) return;
    auto task =
        std::make_shared<std::packaged_task<T()>>([this, number = number_++] { return make_(number); });
    pending_.push_back(task->get_future());
    boost::asio::post(pool_, [task] { (*task)(); });
  }

  Make make_;
  int64_t number_, end_;  // the next item to start; one past the last
  std::deque<std::future<T>> pending_;
  double seconds_waited_ = 0;
  boost::asio::thread_pool pool_;  // last member: its threads are joined before the others are destroyed
};

}  // namespace wuneng
