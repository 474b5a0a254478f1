#include "runtime/cuda/waiting.h"

#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "runtime/cuda/check.h"
#include "runtime/cuda/event.h"
#include "runtime/watchdog.h"

namespace wuneng::cuda {
namespace {

constexpr size_t kNamed = 6;  // queued calls that a message names

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
  std::string trouble() {
    const std::lock_guard lock(mutex);
    for (const auto& [number, check] : checks)
      if (std::string found = check(); !found.empty()) return found;
    return {};
  }
};

Background& background() {
  static Background* const one = new Background;  // used by what ends after static objects
  return *one;
}

bool ended(cudaError_t code) {
  if (code != cudaErrorNotReady) check(code, "waiting for the GPU");
  return code == cudaSuccess;
}

// query: cudaErrorNotReady while there is something to wait for. what: names it.
template <class Query>
void wait_until(const Query& query, const std::string& what) {
  constexpr int kQuick = 2000;  // queries before anything slower: most waits are short
  for (int i = 0; i < kQuick; ++i)
    if (ended(query())) return;
  const std::string last = background().last_queued();
  const watchdog::Waiting waiting(fmt::format("{}; last calls among ranks in it: {}", what, last));
  for (int64_t i = 0; !ended(query()); ++i) {
    std::this_thread::yield();
    if (i % 256 != 0) continue;
    if (const std::string found = background().trouble(); !found.empty())
      fail("waiting for the GPU: NCCL: {}; last calls among ranks: {}", found, last);
  }
}

}  // namespace

void wait_for(cudaStream_t stream) {
  wait_until([stream] { return cudaStreamQuery(stream); }, "the GPU's queue to end");
}

void wait_for(cudaEvent_t event, const std::string& call) {
  wait_until([event] { return cudaEventQuery(event); }, call + ", for the GPU's queue before it to end");
}

Event Event::after(void* stream) {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  Event out;
  out.event_.reset(event, [](void* e) { cudaEventDestroy(static_cast<cudaEvent_t>(e)); });
  check(cudaEventRecord(event, static_cast<cudaStream_t>(stream)), "cudaEventRecord");
  return out;
}

bool Event::passed() const {
  return !event_ || ended(cudaEventQuery(static_cast<cudaEvent_t>(event_.get())));
}

void Event::wait(const std::string& call) const {
  if (event_) wait_for(static_cast<cudaEvent_t>(event_.get()), call);
}

void Event::hold(void* stream) const {
  if (!event_) return;
  check(cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), static_cast<cudaEvent_t>(event_.get()), 0),
        "cudaStreamWaitEvent");
}

void note_queued(const std::string& call) {
  Background& b = background();
  const std::lock_guard lock(b.mutex);
  b.queued.push_back(call);
  if (b.queued.size() > kNamed) b.queued.pop_front();
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
