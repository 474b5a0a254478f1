#include "block.h"

#include <boost/context/fixedsize_stack.hpp>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

namespace emulator {
namespace {

namespace context = boost::context;

constexpr size_t kStack = 256 * 1024;

// Reuses the stacks of ended fibers.
class StackPool {
 public:
  using traits_type = context::stack_traits;
  context::stack_context allocate() {
    auto& free = pool();
    if (free.empty()) return context::fixedsize_stack(kStack).allocate();
    const context::stack_context top = free.back();
    free.pop_back();
    return top;
  }
  void deallocate(context::stack_context& stack) { pool().push_back(stack); }

 private:
  static std::vector<context::stack_context>& pool() {
    static std::vector<context::stack_context> stacks;
    return stacks;
  }
};

}  // namespace

Block g_block;

void Block::start(size_t thread_count, dim3 shape, size_t shared_bytes) {
  constexpr size_t kSystem = 1024;
  if (thread_count > 1024 || shared_bytes > 227 * 1024) {
    std::fprintf(stderr,
                 "emulator: a block of %zu threads and %zu bytes of shared memory does not fit an H100\n",
                 thread_count, shared_bytes);
    std::abort();
  }
  shared_.assign(shared_bytes + kSystem, static_cast<char>(0xff));  // NaN, not data of an earlier block
  const auto at = reinterpret_cast<uintptr_t>(shared_.data());
  shared_at_ = shared_.data() + (kSystem - at % kSystem) % kSystem;
  shared_size_ = shared_bytes;
  threads.resize(thread_count);
  exchanged.assign(thread_count, 0);
  for (size_t t = 0; t < thread_count; ++t)
    threads[t].index = {static_cast<unsigned>(t % shape.x), static_cast<unsigned>(t / shape.x % shape.y),
                        static_cast<unsigned>(t / shape.x / shape.y)};
}

void Block::resume(int t) {
  current = t;
  threadIdx = threads[t].index;
  threads[t].fiber = std::move(threads[t].fiber).resume();
}

void Block::run_until_ended() {
  const int count = static_cast<int>(threads.size());
  reset_hopper();
  for (int t = 0; t < count; ++t) {
    threads[t].state = State::ready;
    threads[t].copies.clear();
    threads[t].fiber = context::fiber(std::allocator_arg, StackPool(), [this, t](context::fiber&& back) {
      scheduler_ = std::move(back);
      (*body)();
      threads[t].state = State::ended;
      return std::move(scheduler_);
    });
  }
  const int warps = (count + kWarp - 1) / kWarp;
  std::vector<Lanes> lanes(warps);
  const auto count_all = [&] {
    for (int w = 0; w < warps; ++w) lanes[w] = count_lanes(w);
  };
  count_all();
  // Warps in random order, between two barriers either interleaved or each as far as possible: results that
  // depend on a missing barrier vary.
  bool alone = draw(2);
  for (int w = 0;;) {
    if (wake()) count_all();
    if (!alone || lanes[w].ready == 0) w = next_warp(lanes);
    if (lanes[w].ready > 0) {
      const int first = w * kWarp, last = std::min(count, first + kWarp);
      const bool down = draw(2);
      for (int i = first; i < last; ++i)
        if (const int t = down ? first + last - 1 - i : i; threads[t].state == State::ready) resume(t);
      exchange(w);
      lanes[w] = count_lanes(w);
      continue;
    }
    alone = draw(2);
    int ended = 0, at_barrier = 0;
    for (const Lanes& l : lanes) ended += l.ended, at_barrier += l.at_barrier;
    if (ended == count) return;
    if (draw(2) && complete_tensor_copy()) continue;
    if (wake_a_lingering_warp()) {
      count_all();
      continue;
    }
    if (complete_tensor_copy()) continue;
    if (ended + at_barrier < count) fail_in_deadlock();
    for (Thread& t : threads)
      if (t.state == State::at_barrier) t.state = State::ready;
    count_all();
  }
}

void Block::fail_in_deadlock() const {
  std::map<std::string, int> waiting;
  for (const Thread& t : threads)
    ++waiting[t.state == State::ended         ? "have ended"
              : t.state == State::at_barrier  ? "wait in a barrier"
              : t.state == State::at_exchange ? "wait in a warp exchange that not all lanes join"
                                              : std::string("wait for ") + t.what];
  std::fprintf(stderr, "emulator: block (%u, %u, %u): deadlock:\n", blockIdx.x, blockIdx.y, blockIdx.z);
  for (const auto& [what, threads_of] : waiting)
    std::fprintf(stderr, "  %d threads %s\n", threads_of, what.c_str());
  std::abort();
}

Block::Lanes Block::count_lanes(int warp) const {
  Lanes n;
  for (int t = warp * kWarp; t < std::min<int>(threads.size(), (warp + 1) * kWarp); ++t) {
    const State s = threads[t].state;
    n.ready += s == State::ready, n.at_barrier += s == State::at_barrier;
    n.at_exchange += s == State::at_exchange, n.waiting += s == State::waiting || s == State::lingering,
        n.ended += s == State::ended;
  }
  return n;
}

int Block::draw(int n) {
  turn_ = turn_ * 6364136223846793005u + 1442695040888963407u;
  return static_cast<int>((turn_ >> 33) % n);
}

// A warp that can run, or any if there is none.
int Block::next_warp(const std::vector<Lanes>& lanes) {
  const int warps = static_cast<int>(lanes.size()), first = draw(warps);
  for (int i = 0; i < warps; ++i)
    if (const int w = (first + i) % warps; lanes[w].ready > 0) return w;
  return first;
}

// Completes a warp exchange once all live lanes of the warp wait in it.
void Block::exchange(int warp) {
  const Lanes n = count_lanes(warp);
  if (n.at_exchange == 0 || n.ready + n.at_barrier + n.waiting > 0) return;
  const int first = warp * kWarp, last = std::min<int>(threads.size(), first + kWarp);
  for (int t = first; t < last; ++t) exchanged[t] = threads[t].value;
  for (int t = first; t < last; ++t)
    if (threads[t].state == State::at_exchange) threads[t].state = State::ready;
}

// Makes the threads ready whose condition holds. True if there were any.
bool Block::wake() {
  if (!something_new_) return false;
  something_new_ = false;
  bool any = false;
  for (Thread& t : threads)
    if (t.state == State::waiting && t.until()) t.state = State::ready, any = true;
  return any;
}

bool Block::wake_a_lingering_warp() {
  const int warps = static_cast<int>((threads.size() + kWarp - 1) / kWarp), from = draw(warps);
  bool any = false;
  for (int i = 0; i < warps && !any; ++i)
    for (int t = (from + i) % warps * kWarp;
         t < std::min<int>(threads.size(), ((from + i) % warps + 1) * kWarp); ++t)
      if (threads[t].state == State::lingering) threads[t].state = State::ready, any = true;
  return any;
}

void Block::wait(State state) {
  const int me = current;
  threads[me].state = state;
  scheduler_ = std::move(scheduler_).resume();
  threadIdx = threads[me].index;
}

void Block::wait_until(const char* what, std::function<bool()> until) {
  if (until()) return;
  Thread& me = threads[current];
  me.what = what, me.until = std::move(until);
  wait(State::waiting);
}

void Block::check_shared(const void* at, size_t bytes, size_t align, const char* what) {
  const char* const begin = static_cast<const char*>(at);
  if (reinterpret_cast<uintptr_t>(at) % align == 0 && begin >= shared_at_ &&
      begin + bytes <= shared_at_ + shared_size_)
    return;
  std::fprintf(stderr, "emulator: %s: expected %zu bytes of shared memory aligned to %zu\n", what, bytes,
               align);
  std::abort();
}

void* shared_memory() { return g_block.shared(); }
void barrier() { g_block.wait(State::at_barrier); }
int lane() { return g_block.current % kWarp; }

const uint64_t* gather(uint64_t value) {
  g_block.threads[g_block.current].value = value;
  g_block.wait(State::at_exchange);
  return g_block.exchanged.data() + g_block.current / kWarp * kWarp;
}

void load_matrices(unsigned (&m)[4], const void* row, bool transposed) {
  const uint64_t* const rows = gather(reinterpret_cast<uintptr_t>(row));
  for (int i = 0; i < 4; ++i) {
    unsigned banks = 0;  // of 16 bytes
    for (int r = 0; r < 8; ++r) {
      const uint64_t at = rows[8 * i + r];
      g_block.check_shared(reinterpret_cast<const void*>(at), 16, 16, "a matrix's row");
      banks |= 1u << at / 16 % 8;
    }
    if (banks != 0xff) {
      std::fprintf(stderr, "emulator: bank conflict between rows of matrix %d\n", i);
      std::abort();
    }
    const auto element = [&](int r, int c) {
      return unsigned{reinterpret_cast<const uint16_t*>(rows[8 * i + r])[c]};
    };
    const int g = lane() / 4, t = lane() % 4 * 2;
    m[i] = transposed ? element(t, g) | element(t + 1, g) << 16 : element(g, t) | element(g, t + 1) << 16;
  }
}

void copy_async(void* to, const void* from, int bytes, int count) {
  g_block.check_shared(to, bytes, bytes, "a copy's target");
  std::memset(to, 0xff, bytes);
  g_block.threads[g_block.current].copies.push_back({to, from, bytes, count});
}

void wait_for_copies() {
  auto& copies = g_block.threads[g_block.current].copies;
  for (const Copy& c : copies) {
    std::memset(c.to, 0, c.bytes);
    std::memcpy(c.to, c.from, c.count);
  }
  copies.clear();
}

uint64_t exchange(uint64_t value, int source) { return gather(value)[source]; }

}  // namespace emulator
