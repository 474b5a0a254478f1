// The thread block that runs: its fibers, what each waits for, its shared memory. Internal to the emulator;
// cuda_runtime.h describes what is emulated.
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
  std::vector<Copy> copies;     // pending
  std::function<bool()> until;  // the condition that a waiting thread waits for
  const char* what = "";        // its description
  boost::context::fiber fiber;
};

class Block {
 public:
  const std::function<void()>* body = nullptr;
  std::vector<Thread> threads;
  std::vector<uint64_t> exchanged;  // by thread
  int current = 0;

  void start(size_t thread_count, dim3 shape, size_t shared_bytes);
  void run_until_ended();
  void wait(State state);
  // Waits until `until` holds. Whatever may change it (another thread, a copy) must call happened().
  void wait_until(const char* what, std::function<bool()> until);
  void happened() { something_new_ = true; }
  // Lets other threads run: for a while, or as far as they can.
  void yield_to_others() { wait(draw(2) ? State::ready : State::lingering); }
  // A pseudo-random number below n, the same sequence in every run.
  int draw(int n);

  // Aligned as on an H100, where the system uses the first KB.
  char* shared() { return shared_at_; }
  size_t shared_size() const { return shared_size_; }
  // Aborts unless [at, at + bytes) is in the block's shared memory and aligned to `align`.
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

// In tensor_copies.cpp: resets the state for a new block; completes one of the pending tensor copies, if any.
void reset_hopper();
bool complete_tensor_copy();

}  // namespace emulator
