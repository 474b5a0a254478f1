#include "runtime/cuda/waiting.h"

#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "runtime/cuda/check.h"
#include "runtime/watchdog.h"

namespace wuneng::cuda {
namespace {

constexpr size_t kNamed = 3;  // queued calls that a message names

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

bool ended(cudaStream_t stream) {
  const cudaError_t code = cudaStreamQuery(stream);
  if (code != cudaErrorNotReady) check(code, "waiting for the GPU");
  return code == cudaSuccess;
}

}  // namespace

void wait_for(cudaStream_t stream) {
  constexpr int kQuick = 2000;  // queries before anything slower: most waits are short
  for (int i = 0; i < kQuick; ++i)
    if (ended(stream)) return;
  const std::string last = background().last_queued();
  const watchdog::Waiting waiting("the GPU's queue to end; last calls among ranks in it: " + last);
  for (int64_t i = 0; !ended(stream); ++i) {
    std::this_thread::yield();
    if (i % 256 != 0) continue;
    if (const std::string found = background().trouble(); !found.empty())
      fail("waiting for the GPU: NCCL: {}; last calls among ranks: {}", found, last);
  }
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
