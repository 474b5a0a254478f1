// The block of threads that runs: its fibers, what each waits for, its shared memory. Of the emulator's own
// sources alone; cuda_runtime.h says what is emulated.
#pragma once
#include <boost/context/fiber.hpp>
#include <functional>
#include <vector>

#include "cuda_runtime.h"

namespace emulator {

inline constexpr int kWarp = 32;

enum class State { ready, at_barrier, at_exchange, waiting, lingering, ended };

struct Copy {
  void* to;
  const void* from;
  int bytes, count;
};

struct Thread {
  uint3 index;
  State state = State::ready;
  uint64_t value = 0;
  std::vector<Copy> copies;     // under way
  std::function<bool()> until;  // what a waiting thread waits for,
  const char* what = "";        // in words
  boost::context::fiber fiber;
};

class Block {
 public:
  const std::function<void()>* body = nullptr;
  std::vector<Thread> threads;
  std::vector<uint64_t> exchanged;  // of every thread
  int current = 0;

  void start(size_t thread_count, dim3 shape, size_t shared_bytes);
  void run_until_ended();
  void wait(State state);
  // Until `until` holds, which becomes true by what another thread or a copy does; they say so by happened().
  void wait_until(const char* what, std::function<bool()> until);
  void happened() { something_new_ = true; }
  // Until others have gone on: for a while, or as far as they can.
  void let_others_go_on() { wait(draw(2) ? State::ready : State::lingering); }
  // A number below n, the same ones in every run.
  int draw(int n);

  // Aligned as an H100's, of which the first KB is the system's.
  char* shared() { return shared_at_; }
  size_t shared_size() const { return shared_size_; }
  // Ends the program where it is not `bytes` of the block's shared memory at a multiple of `align`.
  void check_shared(const void* at, size_t bytes, size_t align, const char* what);

 private:
  struct Lanes {
    int ready = 0, at_barrier = 0, at_exchange = 0, waiting = 0, ended = 0;
  };
  void resume(int t);
  Lanes count_lanes(int warp) const;
  int next_warp(const std::vector<Lanes>& lanes);
  void exchange(int warp);
  bool wake();
  bool wake_a_lingering_warp();
  [[noreturn]] void fail_in_deadlock() const;

  std::vector<char> shared_;
  char* shared_at_ = nullptr;
  size_t shared_size_ = 0;
  bool something_new_ = false;
  uint64_t turn_ = 1;
  boost::context::fiber scheduler_;
};

extern Block g_block;

// hopper.cpp's: forgets what an earlier block left; lands one of the tensor copies that are under way, if
// any.
void begin_hopper();
bool land_a_tensor_copy();

}  // namespace emulator
