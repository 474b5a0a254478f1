// GenerationLoop: a thread that runs a GenerationEngine for requests of other threads, all at the same time.
#pragma once
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "launch/serve/metrics.h"
#include "model/generation/engine.h"

namespace wuneng::serving {

struct Outcome {
  int64_t sequence = 0;
  GenerationEvent event = {};
  std::string error = {};  // not empty: the engine has failed, and this is the sequence's last outcome
};

class GenerationLoop {
 public:
  // Called on the loop's thread; it should only pass the outcome on.
  using Sink = std::function<void(Outcome)>;

  // most_sequences: of all requests together, running and waiting.
  GenerationLoop(GenerationEngine& engine, int64_t most_sequences, Metrics& metrics);
  ~GenerationLoop();  // ends after the step under way; sinks get no more

  // The numbers of the sequences, in their order. Throws HttpError 429 where most_sequences would be
  // exceeded.
  std::vector<int64_t> submit(std::vector<GenerationRequest> requests, Sink sink);
  void cancel(const std::vector<int64_t>& sequences);  // nothing for those that have ended

 private:
  struct Added {
    int64_t number;
    GenerationRequest request;
    std::shared_ptr<const Sink> sink;
  };
  struct Active {
    std::shared_ptr<const Sink> sink;
    bool begun = false;
  };
  void run();
  void begin(Added& added);
  void step();
  void fail(int64_t number, const std::string& error);
  void end(std::map<int64_t, Active>::iterator it);

  GenerationEngine& engine_;
  const int64_t most_sequences_;
  Metrics& metrics_;
  std::map<int64_t, Active> active_;  // of the thread

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Added> added_;
  std::vector<int64_t> cancelled_;
  int64_t next_ = 0, sequences_ = 0;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace wuneng::serving
