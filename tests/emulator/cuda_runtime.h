// The part of the CUDA runtime API that wuneng uses, emulated on the CPU: with this header in place of the
// toolkit's, kernels/cuda is compiled by the C++ compiler and runs on the CPU, so that its arithmetic,
// indices and barriers are tested on any machine (also with AddressSanitizer).
//
// The threads of a block are fibers that run up to a barrier or warp exchange; blocks run in order. Between
// two barriers the warps are scheduled in random order, interleaved or each as far as possible, so that a
// missing barrier changes the result. Not emulated: memory ordering, occupancy, speed. New device memory is
// filled with NaN, and host accesses to it abort, as on a GPU. Asynchronous work in streams runs as late as
// possible: see streams.cpp.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __shared__ static  // one block runs at a time
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __restrict__

struct alignas(8) uint2 {
  unsigned x, y;
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
inline uint3 threadIdx, blockIdx;  // set by the emulator before each switch
inline dim3 blockDim, gridDim;

using cudaStream_t = struct EmulatedStream*;
using cudaEvent_t = struct EmulatedEvent*;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidDevice = 101,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorNotReady = 600,
  cudaErrorStreamCaptureUnsupported = 900
};
using cudaGraph_t = struct EmulatedGraph*;
using cudaGraphExec_t = struct EmulatedGraph*;
using cudaGraphNode_t = struct EmulatedGraphNode*;
enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed = 2 };

namespace emulator {

// What a function of the API returns: an error stays this thread's last one until cudaGetLastError().
cudaError_t returned(cudaError_t code);
int current_device();  // of this thread, as set by cudaSetDevice: 0 in a new thread
// A call of the driver that may wait for all work of the device, and so for messages: aborts while this
// process has a NCCL communicator.
void require_no_messages(const char* call);
// The same of a call that collectives do not matter to, whose ranks have all launched what is waited for:
// aborts while this process has a communicator, if it has sent or received messages.
void require_no_channels(const char* call);
// The most bytes that cudaMalloc and cudaHostAlloc give from now on; < 0: no limit.
void limit_memory(int64_t device_bytes, int64_t pinned_bytes);

// Runs body for every thread of every block, in `stream` (null: the first one), which must be one of the
// thread's current device.
void run(cudaStream_t stream, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);
// A kernel of a library: runs `work` with access to device memory, after earlier work in the stream.
void as_kernel(cudaStream_t stream, const std::function<void()>& work);
void with_memory(const std::function<void()>& work);  // with access to device memory
// Where the stream (null: the first one) is recorded: keeps `work` for the graph, and returns true.
bool record(cudaStream_t stream, const std::function<void()>& work);
bool is_recorded(cudaStream_t stream);
// Kernels, copies, fills and graphs that this process has launched, without those that were recorded.
int64_t launches();
void count_launch();
void spend(cudaStream_t stream, float milliseconds);  // as cudaEventElapsedTime() has it
// Copies between a GPU and memory of the host that is not pinned: they make the host wait.
int64_t pageable_copies();
int64_t waits();  // of the host for a stream, or for an event that had not completed
void count_wait();
void* shared_memory();  // the block's dynamic shared memory
void barrier();         // all live threads of the block
// Warp shuffle: by all live lanes of the warp; returns the value of lane `source`.
uint64_t exchange(uint64_t value, int source);
// By all live lanes of the warp; returns all 32 values (stale for lanes that have ended).
const uint64_t* gather(uint64_t value);
int lane();

// The queue of a stream: put() appends, catch_up() runs all of it; catch_up_kernels() that of the stream of
// the kernels.
void put(cudaStream_t stream, std::function<void()> work);
void catch_up(cudaStream_t stream);
void catch_up_kernels();
int device_of(cudaStream_t stream);

// Emulates kernels/cuda/common/tensor_core.h, by all lanes of a warp; splits each operand into three tf32
// numbers.
void multiply_tile(float (&d)[4], const float (&a)[4], const float (&b)[2]);
// Emulates kernels/cuda/common/mma_bf16.h, by all lanes of a warp.
void mma_bf16(float (&d)[4], const unsigned (&a)[4], unsigned b_top, unsigned b_bottom);
// Aborts if a row is outside the block's shared memory or misaligned, or if the eight rows of a matrix have a
// bank conflict.
void load_matrices(unsigned (&m)[4], const void* row, bool transposed);
// A copy completes when its thread waits for it; until then its target is NaN.
void copy_async(void* to, const void* from, int bytes, int count);
void wait_for_copies();

template <class T>
T shuffle(T value, int source) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(bits, source);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace emulator

inline void __syncthreads() { emulator::barrier(); }
inline void __syncwarp(unsigned = ~0u) { emulator::exchange(0, 0); }
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
  return emulator::shuffle(value, emulator::lane() ^ mask);
}
inline int atomicAdd(int* at, int x) {  // one thread runs at a time
  const int before = *at;
  *at += x;
  return before;
}
inline int __float_as_int(float x) {
  int i;
  std::memcpy(&i, &x, 4);
  return i;
}
inline float __int_as_float(int x) {
  float f;
  std::memcpy(&f, &x, 4);
  return f;
}
using std::max;
using std::min;

// Host API.
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};
constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocPortable = 1;
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
  int multiProcessorCount, major, minor;
};

cudaError_t cudaMalloc(void** memory, size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned flags);  // pinned
cudaError_t cudaFreeHost(void* memory);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
const char* cudaGetErrorString(cudaError_t code);
inline const char* cudaGetErrorName(cudaError_t) { return "emulated"; }
cudaError_t cudaGetLastError();
// One device that all processes share; with WUNENG_EMULATOR_GPU_PER_RANK as many as ranks on this host.
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int device);
struct cudaPointerAttributes {
  int device;
};
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* device_memory);
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {"CUDA emulated on the CPU", size_t{1} << 34, 4, 9, 0};
  return cudaSuccess;
}
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76
};
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  *value = which == cudaDevAttrMultiProcessorCount ? 4 : which == cudaDevAttrComputeCapabilityMajor ? 9 : 0;
  return cudaSuccess;
}
// For the driver functions in cuda.h.
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess, cudaDriverEntryPointSymbolNotFound };
constexpr unsigned cudaEnableDefault = 0;
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned version,
                                             unsigned long long flags, cudaDriverEntryPointQueryResult*);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority);
inline cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return *least = *greatest = 0, cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
// A graph is a list of work in one stream. Copies to and from the host cannot be recorded.
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
// What spend() has put between two events of a stream. They must not be made with cudaEventDisableTiming.
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t);
cudaError_t cudaMemsetAsync(void* at, int value, size_t bytes, cudaStream_t);
template <class F>
cudaError_t cudaFuncSetAttribute(F*, cudaFuncAttribute, int) {
  return cudaSuccess;
}
