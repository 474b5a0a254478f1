#include "runtime/cuda/waiting.h"

#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "runtime/cuda/check.h"
#include "runtime/cuda/event.h"
#include "runtime/progress.h"
#include "runtime/watchdog.h"

namespace wuneng::cuda {
namespace {

constexpr size_t kNamedCalls = 6;  // enqueued calls that a report lists

struct Background {
  std::mutex mutex;
  std::deque<std::string> queued;
  std::map<int, HealthCheck> checks;
  int next = 0;

  std::string last_queued() {
    const std::lock_guard lock(mutex);
    std::string text;
    for (const std::string& call : queued) text += (text.empty() ? "" : "; ") + call;
    return text.empty() ? "none" : text;
  }
  std::string asynchronous_error() {
    const std::lock_guard lock(mutex);
    for (const auto& [number, check] : checks)
      if (std::string found = check(); !found.empty()) return found;
    return {};
  }
};

Background& background() {
  static Background* const one =
      new Background;  // never destroyed: used during the destruction of static objects
  return *one;
}

bool ended(cudaError_t code) {
  if (tolerated(code) != cudaErrorNotReady) check(code, "waiting for the GPU");
  return code == cudaSuccess;
}

// query: returns cudaErrorNotReady until the work has ended. what: description for the hang report.
template <class Query>
void wait_until(const Query& query, const std::string& what) {
  constexpr int kQuick = 2000;  // queries without any overhead first: most waits are short
  for (int i = 0; i < kQuick; ++i)
    if (ended(query())) return;
  const std::string last = background().last_queued();
  const watchdog::Waiting waiting(fmt::format("{}; last communication calls: {}", what, last));
  for (int64_t i = 0; !ended(query()); ++i) {
    progress::make();
    std::this_thread::yield();
    if (i % 256 != 0) continue;
    if (const std::string found = background().asynchronous_error(); !found.empty())
      fail("waiting for the GPU: NCCL: {}; last communication calls: {}", found, last);
  }
}

}  // namespace

void wait_for(cudaStream_t stream) {
  wait_until([stream] { return cudaStreamQuery(stream); }, "waiting for all work on the GPU");
}

void wait_for(cudaEvent_t event, const std::string& call) {
  wait_until([event] { return cudaEventQuery(event); }, call + ", waiting for work on the GPU");
}

Event Event::record(void* stream) {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  Event out;
  out.event_.reset(event, [](void* e) { cudaEventDestroy(static_cast<cudaEvent_t>(e)); });
  check(cudaEventRecord(event, static_cast<cudaStream_t>(stream)), "cudaEventRecord");
  return out;
}

bool Event::completed() const {
  return !event_ || ended(cudaEventQuery(static_cast<cudaEvent_t>(event_.get())));
}

void Event::wait(const std::string& call) const {
  if (event_) wait_for(static_cast<cudaEvent_t>(event_.get()), call);
}

void Event::block(void* stream) const {
  if (!event_) return;
  check(cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), static_cast<cudaEvent_t>(event_.get()), 0),
        "cudaStreamWaitEvent");
}

void note_queued(const std::string& call) {
  Background& b = background();
  const std::lock_guard lock(b.mutex);
  b.queued.push_back(call);
  if (b.queued.size() > kNamedCalls) b.queued.pop_front();
}

int add_health_check(HealthCheck check) {
  Background& b = background();
  const std::lock_guard lock(b.mutex);
  b.checks.emplace(b.next, std::move(check));
  return b.next++;
}

void remove_health_check(int number) {
  Background& b = background();
  const std::lock_guard lock(b.mutex);
  b.checks.erase(number);
}

}  // namespace wuneng::cuda
