// Waiting for a GPU. The host waits only through these functions, so that the watchdog reports a collective
// that never ends, and asynchronous errors of NCCL are detected.
#pragma once
#include <cuda_runtime.h>

#include <functional>
#include <string>

namespace wuneng::cuda {

// Return when all work in the stream, or before the event, has ended. call: description for the hang report.
void wait_for(cudaStream_t stream);
void wait_for(cudaEvent_t event, const std::string& call);

// Records a communication call that was enqueued, for the report of a wait that does not end.
void note_queued(const std::string& call);

// Called while the host waits: returns an asynchronous error, or an empty string.
using HealthCheck = std::function<std::string()>;
int add_health_check(HealthCheck check);
void remove_health_check(int number);

}  // namespace wuneng::cuda
