// What runtime/ asks of a GPU. Without CUDA in the build there is no GPU, and whoever asks for one is told
// so.
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
// Before anything else of CUDA in a process of several ranks: sets what nccl.h counts on in the environment
// that the driver reads when it starts. What the user has set there stays.
void expect_messages();
int device_count();
std::string why_none();  // why device_count() is 0
std::string device_name(int index);
std::string bus_id(int index);  // where it is plugged in: equal for ranks that share it
void* compute_stream(int index);
void synchronize(int index);
// From a cache of blocks; what is released is used again in stream order, with no call into the driver.
void* allocate(int index, int64_t bytes);
void release(int index, void* memory, int64_t bytes);
void copy(void* to, Device to_device, const void* from, Device from_device, int64_t bytes);
void zero(void* at, int index, int64_t bytes);
// Page-locked memory of the host from a cache of blocks (locking pages is slow). What is released is used
// again when last_use has passed.
void* allocate_locked(int64_t bytes);
void release_locked(void* memory, int64_t bytes, const Event& last_use);
int64_t locked_bytes();  // in use and in the cache
// Between page-locked memory and the GPU of that index, either way, in the compute stream's order; returns at
// once, with the event that the copy has ended.
Event copy_locked(void* to, const void* from, int64_t bytes, int index);
// Tensors on one GPU, f32 or bf16: to = from; to += from.
void convert(const Tensor& from, const Tensor& to);
void add(const Tensor& from, const Tensor& to);
#else
[[noreturn]] inline void none() { fail("this build has no CUDA"); }
inline void expect_messages() {}
inline int device_count() { return 0; }
inline std::string why_none() { return "this build has no CUDA"; }
inline std::string device_name(int) { none(); }
inline std::string bus_id(int) { none(); }
inline void* compute_stream(int) { none(); }
inline void synchronize(int) { none(); }
inline void* allocate(int, int64_t) { none(); }
inline void release(int, void*, int64_t) {}
inline void copy(void*, Device, const void*, Device, int64_t) { none(); }
inline void zero(void*, int, int64_t) { none(); }
inline void* allocate_locked(int64_t) { none(); }
inline void release_locked(void*, int64_t, const Event&) {}
inline int64_t locked_bytes() { return 0; }
inline Event copy_locked(void*, const void*, int64_t, int) { none(); }
inline void convert(const Tensor&, const Tensor&) { none(); }
inline void add(const Tensor&, const Tensor&) { none(); }
#endif

}  // namespace wuneng::cuda
