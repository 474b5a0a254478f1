// Waiting for a GPU, with a name: the host waits here alone, so that a collective that never ends is told of,
// and an error of a library that works in the background is found.
#pragma once
#include <cuda_runtime.h>

#include <functional>
#include <string>

namespace wuneng::cuda {

// Returns when all work in the stream has ended, or all before the event; call: what the event is waited for.
void wait_for(cudaStream_t stream);
void wait_for(cudaEvent_t event, const std::string& call);

// A call among ranks that was put into a stream, to be named where a wait does not end.
void note_queued(const std::string& call);

// Asked while the host waits: what has gone wrong in the background, empty where nothing has.
using HealthCheck = std::function<std::string()>;
int add_health_check(HealthCheck check);
void remove_health_check(int number);

}  // namespace wuneng::cuda
