// The threads of one rank: a pool that splits loops. Our own and small, so that results depend on nothing but
// the thread count, that products and loops share one set of threads, and that ThreadSanitizer sees every
// hand-over.
#pragma once
#include <cstdint>
#include <functional>

namespace wuneng {

// Threads that parallel_for uses (this thread among them). First call decides: WUNENG_THREADS, else the cores
// that this process may run on, divided by the ranks of this node (set by the communicator before the first
// loop).
int thread_count();
void set_thread_count(int count);  // before or between loops, never inside one

// Calls body(begin, end) on pieces that cover [0, n), at most one piece per thread and none smaller than
// `grain` (but for n < grain). The cut depends only on n, grain and thread_count(). Calls from inside a body
// run inline.
void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body);

}  // namespace wuneng
