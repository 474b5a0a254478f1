// Prefetcher: makes what a run will need next (micro-batches) on threads of its own while the step runs.
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

// Things number first, first + 1, ... end - 1 in order. Each is a pure function of its number, so how far
// ahead and how many threads change nothing but the time waited.
template <class T>
class Prefetcher {
 public:
  using Make = std::function<T(int64_t number)>;  // called on several threads at once

  Prefetcher(Make make, int64_t first, int64_t end, int ahead, int threads = 1)
      : make_(std::move(make)), number_(first), end_(end), pool_(static_cast<size_t>(threads)) {
    require(ahead > 0 && threads > 0, "data: {} ahead on {} threads: expected both > 0", ahead, threads);
    for (int i = 0; i < ahead; ++i) start_one();
  }
  ~Prefetcher() {
    pool_.stop();  // what has not begun is dropped
    pool_.join();
  }

  // The next one, or what its making threw. At most `ahead` are made or being made at any time.
  T next() {
    WUNENG_ASSERT(!coming_.empty());
    using Clock = std::chrono::steady_clock;
    std::future<T> front = std::move(coming_.front());
    coming_.pop_front();
    const Clock::time_point begin = Clock::now();
    front.wait();
    seconds_waited_ += std::chrono::duration<double>(Clock::now() - begin).count();
    start_one();
    return front.get();
  }
  // Time that next() has stood still for what was not ready: what the data costs the run.
  double seconds_waited() const { return seconds_waited_; }

 private:
  void start_one() {
    if (number_ >= end_) return;
    auto task =
        std::make_shared<std::packaged_task<T()>>([this, number = number_++] { return make_(number); });
    coming_.push_back(task->get_future());
    boost::asio::post(pool_, [task] { (*task)(); });
  }

  Make make_;
  int64_t number_, end_;  // the next to be started, and the last one's successor
  std::deque<std::future<T>> coming_;
  double seconds_waited_ = 0;
  boost::asio::thread_pool pool_;  // last: its threads are joined before what they use is gone
};

}  // namespace wuneng
