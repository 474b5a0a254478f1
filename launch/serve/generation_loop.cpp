#include "launch/serve/generation_loop.h"

#include <cstdio>
#include <utility>

#include "launch/serve/http_error.h"

namespace wuneng::serving {

GenerationLoop::GenerationLoop(GenerationEngine& engine, int64_t most_sequences, Metrics& metrics)
    : engine_(engine), most_sequences_(most_sequences), metrics_(metrics), thread_([this] { run(); }) {}

GenerationLoop::~GenerationLoop() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

std::vector<int64_t> GenerationLoop::submit(std::vector<GenerationRequest> requests, Sink sink) {
  std::vector<int64_t> numbers;
  const auto shared = std::make_shared<const Sink>(std::move(sink));
  {
    const std::lock_guard lock(mutex_);
    if (sequences_ + std::ssize(requests) > most_sequences_)
      throw HttpError(
          429,
          fmt::format("the queue is full: {} sequences run or wait, at most {} may; try again later",
                      sequences_, most_sequences_),
          "", "queue_full");
    for (GenerationRequest& request : requests) {
      metrics_.prompt_tokens += std::ssize(request.prompt);
      numbers.push_back(next_);
      added_.push_back({next_++, std::move(request), shared});
    }
    sequences_ += std::ssize(numbers);
    metrics_.waiting += std::ssize(numbers);
  }
  changed_.notify_one();
  return numbers;
}

void GenerationLoop::cancel(const std::vector<int64_t>& sequences) {
  if (sequences.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    cancelled_.insert(cancelled_.end(), sequences.begin(), sequences.end());
  }
  changed_.notify_one();
}

void GenerationLoop::end(std::map<int64_t, Active>::iterator it) {
  --(it->second.begun ? metrics_.running : metrics_.waiting);
  active_.erase(it);
  const std::lock_guard lock(mutex_);
  --sequences_;
}

void GenerationLoop::fail(int64_t number, const std::string& error) {
  const auto it = active_.find(number);
  const std::shared_ptr<const Sink> sink = it->second.sink;
  engine_.cancel(number);
  end(it);
  (*sink)({number, {}, error});
}

void GenerationLoop::begin(Added& added) {
  active_[added.number] = {added.sink};
  try {
    engine_.add(added.number, added.request);
  } catch (const std::exception& e) {
    fail(added.number, e.what());
  }
}

// An engine that fails does not say for which sequence: all that run are given up.
void GenerationLoop::step() {
  std::vector<GenerationEvent> events;
  try {
    events = engine_.step();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "wuneng: error: generation: %s\n", e.what());
    while (!active_.empty()) fail(active_.begin()->first, e.what());
  }
  for (GenerationEvent& event : events) {
    const auto it = active_.find(event.request);
    if (!std::exchange(it->second.begun, true)) {
      --metrics_.waiting;
      ++metrics_.running;
    }
    metrics_.generated_tokens += event.token.has_value();
    const std::shared_ptr<const Sink> sink = it->second.sink;
    const int64_t number = event.request;
    if (event.finish != Finish::none) end(it);
    (*sink)({number, std::move(event)});
  }
}

void GenerationLoop::run() {
  while (true) {
    std::vector<Added> added;
    std::vector<int64_t> cancelled;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stop_ || !added_.empty() || !cancelled_.empty() || !engine_.idle(); });
      if (stop_) return;
      std::swap(added, added_);
      std::swap(cancelled, cancelled_);
    }
    for (Added& one : added) begin(one);
    for (const int64_t number : cancelled)
      if (const auto it = active_.find(number); it != active_.end()) {
        engine_.cancel(number);
        end(it);
      }
    if (!engine_.idle()) step();
  }
}

}  // namespace wuneng::serving
