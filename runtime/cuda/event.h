// Event: a cudaEvent_t. Another stream can wait for it without the host; the host can query it or wait for it
// with a name for the hang report.
#pragma once
#include <memory>
#include <string>

namespace wuneng::cuda {

#ifdef WUNENG_WITH_CUDA
class Event {
 public:
  Event() = default;                  // completed
  static Event record(void* stream);  // completes when the work that is in the stream now has ended
  bool completed() const;
  void wait(const std::string& call) const;  // blocks the host; call: description for the hang report
  void block(void* stream) const;            // later work in `stream` waits for it

 private:
  std::shared_ptr<void> event_;
};
#else
class Event {  // a build without CUDA
 public:
  static Event record(void*) { return {}; }
  bool completed() const { return true; }
  void wait(const std::string&) const {}
  void block(void*) const {}
};
#endif

}  // namespace wuneng::cuda
