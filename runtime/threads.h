// The thread pool of one rank, which splits loops. Not OpenMP, so that results depend only on the thread
// count, matrix products and loops share one pool, and ThreadSanitizer understands the synchronisation.
#pragma once
#include <cstdint>
#include <functional>

namespace wuneng {

// Threads that parallel_for uses, including the caller. Decided at the first call: WUNENG_THREADS, else the
// cores that this process may run on, divided by the ranks of this node if mpirun started it
// (OMPI_COMM_WORLD_LOCAL_SIZE).
int thread_count();
void set_thread_count(int count);  // before or between loops, never inside one

// Calls body(begin, end) on pieces that cover [0, n), at most one piece per thread and none smaller than
// `grain` (except for n < grain). The pieces depend only on n, grain and thread_count(). Nested calls
// run inline.
void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body);

}  // namespace wuneng
