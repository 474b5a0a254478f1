// Streams and events. Asynchronous work (copies to and from pinned memory, receives from other ranks) runs
// only when it is waited for, so that a missing wait gives wrong data. Kernels run at once, after the pending
// work of their stream; those without one belong to the first stream that was created.
#include <deque>
#include <functional>
#include <mutex>
#include <vector>

#include "cuda_runtime.h"

struct EmulatedGraph {
  std::vector<std::function<void()>> work;
};

struct EmulatedStream {
  int device = emulator::current_device();
  EmulatedGraph* recorded = nullptr;  // what is put into the stream goes there
  std::deque<std::function<void()>> waiting;
  int64_t ended = 0;  // number of items removed from `waiting`
  float time = 0;     // milliseconds that what was put into it takes
};

struct EmulatedEvent {
  int device = emulator::current_device();
  EmulatedStream* stream = nullptr;
  int64_t position = 0;  // completes when this many items of the stream have ended
  bool timed = false;
  float time = 0;
};

namespace emulator {
namespace {

EmulatedStream* g_first = nullptr;
int64_t g_launches = 0, g_waits = 0;
std::recursive_mutex g_queues;  // work may wait for other work

// Work may wait for work in other streams, never for later work in its own.
void run_until(EmulatedStream* stream, int64_t position) {
  const std::lock_guard lock(g_queues);
  while (stream->ended < position) {
    const std::function<void()> work = std::move(stream->waiting.front());
    stream->waiting.pop_front();
    ++stream->ended;
    work();
  }
}

int64_t end_of(const EmulatedStream* s) {
  const std::lock_guard lock(g_queues);
  return s->ended + static_cast<int64_t>(s->waiting.size());
}

}  // namespace

void put(cudaStream_t stream, std::function<void()> work) {
  const std::lock_guard lock(g_queues);
  stream->waiting.push_back(std::move(work));
}

void catch_up(cudaStream_t stream) {
  if (stream) run_until(stream, end_of(stream));
}

void catch_up_kernels() { catch_up(g_first); }

int device_of(cudaStream_t stream) { return stream->device; }

bool is_recorded(cudaStream_t stream) {
  const EmulatedStream* const s = stream ? stream : g_first;
  return s && s->recorded;
}
bool record(cudaStream_t stream, const std::function<void()>& work) {
  if (!is_recorded(stream)) return false;
  (stream ? stream : g_first)->recorded->work.push_back(work);
  return true;
}

void spend(cudaStream_t stream, float milliseconds) { stream->time += milliseconds; }

int64_t launches() { return g_launches; }
void count_launch() { ++g_launches; }
int64_t waits() { return g_waits; }
void count_wait() { ++g_waits; }

}  // namespace emulator

using namespace emulator;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new EmulatedStream;
  if (!g_first) g_first = *stream;
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return catch_up(stream), cudaSuccess;
}  // events name it
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  count_wait();
  if (is_recorded(stream)) return returned(cudaErrorStreamCaptureUnsupported);
  return catch_up(stream), cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream->recorded) return returned(cudaErrorInvalidValue);
  stream->recorded = new EmulatedGraph;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = stream->recorded;
  stream->recorded = nullptr;
  return *graph ? cudaSuccess : returned(cudaErrorInvalidValue);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  require_no_channels("cudaGraphInstantiate");
  *executable = new EmulatedGraph(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (is_recorded(stream)) return returned(cudaErrorStreamCaptureUnsupported);
  count_launch();
  put(stream, [work = executable->work] {
    with_memory([&] {
      for (const std::function<void()>& one : work) one();
    });
  });
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
  return *count = graph->work.size(), cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return delete executable, cudaSuccess; }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  *event = new EmulatedEvent;
  (*event)->timed = (flags & cudaEventDisableTiming) == 0;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (event->device != stream->device) return returned(cudaErrorInvalidResourceHandle);
  if (is_recorded(stream)) return returned(cudaErrorStreamCaptureUnsupported);
  event->stream = stream;
  event->position = end_of(stream);
  event->time = stream->time;
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  if (!begin->timed || !end->timed || begin->stream != end->stream)
    return returned(cudaErrorInvalidResourceHandle);
  if (end->stream->ended < end->position) return returned(cudaErrorNotReady);
  return *milliseconds = end->time - begin->time, cudaSuccess;
}

// The first query returns cudaErrorNotReady, so that callers must handle that.
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event->stream->ended >= event->position) return cudaSuccess;
  count_wait();
  run_until(event->stream, event->position);
  return returned(cudaErrorNotReady);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (is_recorded(stream)) return returned(cudaErrorStreamCaptureUnsupported);
  put(stream, [at = *event] { run_until(at.stream, at.position); });
  return cudaSuccess;
}
