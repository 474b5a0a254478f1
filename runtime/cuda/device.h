// Operations on a GPU that runtime/ needs. In a build without CUDA, device_count() is 0 and the others throw.
#pragma once
#include <cstdint>
#include <string>

#include "runtime/cuda/event.h"
#include "runtime/device.h"
#include "runtime/error.h"

namespace wuneng {
class Tensor;
}

namespace wuneng::cuda {

#ifdef WUNENG_WITH_CUDA
// Must be called before MPI_Init, which may start the driver, if there are several ranks: sets the
// environment variables of the driver that nccl.h relies on, unless the user has set them. messages: whether
// ranks may exchange messages by NCCL (Comm::connect_messages).
void set_driver_environment(bool messages);
int device_count();
std::string why_none();  // why device_count() is 0
std::string device_name(int index);
// Makes a GPU the calling thread's current one: what is made next belongs to it. A new thread has GPU 0.
void make_current(int index);
int multiprocessors(int index);
// Blocks, one a multiprocessor, of a kernel whose blocks stay until all work is done: those that keep_free()
// has left to kernels of communication, which would wait for such a kernel's end.
int persistent_blocks(int index);
void keep_free(int index, int multiprocessors);  // the largest call counts; at most half
int compute_capability(int index);               // 90: 9.0
std::string bus_id(int index);                   // PCI bus id: equal for ranks that share the GPU
void* compute_stream(int index);
void synchronize(int index);
// A caching allocator: released blocks are reused in stream order without a driver call.
void* allocate(int index, int64_t bytes);
void release(int index, void* memory, int64_t bytes);
// In the compute stream. Waits for a copy to the host. One from the host has read `from` when this returns;
// up to 256 KB pass through pinned memory of the GPU's own, without waiting for the stream.
void copy(void* to, Device to_device, const void* from, Device from_device, int64_t bytes);
void zero(void* at, int index, int64_t bytes);
// Takes a share of the GPU's free memory, and 256 MB of pinned memory, once for all: later calls of
// allocate() and allocate_pinned() give parts of these alone. The driver's own calls may wait for the GPU,
// and with it for a message whose other side waits for this host: between reserve() and the end of all
// communication by NCCL there are none.
void reserve(int index, double share);
// Pinned host memory, cached because pinning is slow. A released block is reused when last_use has completed.
// Null: what was reserved has no room.
void* allocate_pinned(int64_t bytes);
void release_pinned(void* memory, int64_t bytes, const Event& last_use);
int64_t pinned_bytes();  // in use and in the cache; of what reserve() took, the most in use so far
// Asynchronous copy between pinned memory and the GPU with that index, in either direction, in the compute
// stream; returns an event after the copy.
Event copy_pinned(void* to, const void* from, int64_t bytes, int index);
// Tensors on one GPU, f32 or bf16: to = from, which may also be f16 or i8; to += from.
void convert(const Tensor& from, const Tensor& to);
void add(const Tensor& from, const Tensor& to);
#else
[[noreturn]] inline void none() { fail("this build has no CUDA"); }
inline void set_driver_environment(bool) {}
inline int device_count() { return 0; }
inline std::string why_none() { return "this build has no CUDA"; }
inline std::string device_name(int) { none(); }
inline int multiprocessors(int) { none(); }
inline std::string bus_id(int) { none(); }
inline void* compute_stream(int) { none(); }
inline void synchronize(int) { none(); }
inline void* allocate(int, int64_t) { none(); }
inline void reserve(int, double) { none(); }
inline void release(int, void*, int64_t) {}
inline void copy(void*, Device, const void*, Device, int64_t) { none(); }
inline void zero(void*, int, int64_t) { none(); }
inline void* allocate_pinned(int64_t) { none(); }
inline void release_pinned(void*, int64_t, const Event&) {}
inline int64_t pinned_bytes() { return 0; }
inline Event copy_pinned(void*, const void*, int64_t, int) { none(); }
inline void convert(const Tensor&, const Tensor&) { none(); }
inline void add(const Tensor&, const Tensor&) { none(); }
#endif

}  // namespace wuneng::cuda
