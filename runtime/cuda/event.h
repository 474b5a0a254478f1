// Event: a point in a GPU stream's order of work. Another stream can be made to wait for it without the host,
// and the host can ask whether it has passed, or wait for it by name.
#pragma once
#include <memory>
#include <string>

namespace wuneng::cuda {

#ifdef WUNENG_WITH_CUDA
class Event {
 public:
  Event() = default;                 // has passed
  static Event after(void* stream);  // passes when all that is in the stream now has ended
  bool passed() const;
  void wait(const std::string& call) const;  // by the host; call: what for, named where it does not end
  void hold(void* stream) const;             // what is put into `stream` from now on waits for it

 private:
  std::shared_ptr<void> event_;
};
#else
class Event {  // there is no GPU to wait for
 public:
  static Event after(void*) { return {}; }
  bool passed() const { return true; }
  void wait(const std::string&) const {}
  void hold(void*) const {}
};
#endif

}  // namespace wuneng::cuda
