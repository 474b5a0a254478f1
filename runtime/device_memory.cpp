#include "runtime/device_memory.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "runtime/cuda/device.h"
#include "runtime/dry_run.h"
#include "runtime/error.h"

namespace wuneng {
namespace {

constexpr int64_t kAlignment = 64;  // one cache line, one AVX-512 register

struct Counter {
  std::atomic<int64_t> current{0}, peak{0};

  void add(int64_t bytes) {
    const int64_t now = current += bytes;
    for (int64_t before = peak; now > before && !peak.compare_exchange_weak(before, now);) {
    }
  }
};

Counter& counter(DeviceKind kind) {
  static Counter counters[2];
  return counters[static_cast<int>(kind)];
}

Counter& dry_counter() {
  static Counter value;
  return value;
}

// Addresses that no memory has and that no access survives: beyond what a processor can map.
void* dry_address(int64_t bytes) {
  static std::atomic<uintptr_t> next{uintptr_t{1} << 60};
  return reinterpret_cast<void*>(next.fetch_add(static_cast<uintptr_t>(bytes)));
}

void* allocate_host(int64_t bytes) {
  void* const memory = std::aligned_alloc(kAlignment, bytes);
  require(memory != nullptr, "out of memory: {} bytes requested, {} held by tensors", bytes,
          counter(DeviceKind::cpu).current.load());
  return memory;
}

}  // namespace

int cuda_device_count() { return cuda::device_count(); }

Device parse_device(const std::string& name, int local_rank) {
  if (name == "cpu" || (name == "auto" && cuda_device_count() == 0)) return {};
  require(name == "cuda" || name == "auto", "device '{}': expected cpu, cuda or auto", name);
  const int count = cuda_device_count();
  require(count > 0, "device 'cuda': no GPU found ({})", cuda::why_none());
  return {DeviceKind::cuda, local_rank % count};
}

std::string device_name(Device device) {
  return device.kind == DeviceKind::cpu ? "CPU" : cuda::device_name(device.index);
}

Stream compute_stream(Device device) {
  if (device.dry) return {device};
  return device.kind == DeviceKind::cpu ? Stream{} : Stream{device, cuda::compute_stream(device.index)};
}

void synchronize(Device device) {
  if (device.kind == DeviceKind::cuda && !device.dry) cuda::synchronize(device.index);
}

std::shared_ptr<void> allocate_bytes(Device device, int64_t bytes) {
  const int64_t rounded = bytes > 0 ? (bytes + kAlignment - 1) / kAlignment * kAlignment : kAlignment;
  if (device.dry) {
    dry_counter().add(rounded);
    dry_run::count_made(double(bytes));
    return {dry_address(rounded), [rounded](void*) { dry_counter().current -= rounded; }};
  }
  void* const memory =
      device.kind == DeviceKind::cpu ? allocate_host(rounded) : cuda::allocate(device.index, rounded);
  counter(device.kind).add(rounded);
  return {memory, [device, rounded](void* p) {
            counter(device.kind).current -= rounded;
            device.kind == DeviceKind::cpu ? std::free(p) : cuda::release(device.index, p, rounded);
          }};
}

void copy_bytes(void* to, Device to_device, const void* from, Device from_device, int64_t bytes) {
  if (bytes == 0 || to_device.dry) return;
  if (from_device.dry) return zero_bytes(to, to_device, bytes);  // there is nothing to copy
  if (to_device.kind == DeviceKind::cpu && from_device.kind == DeviceKind::cpu)
    std::memmove(to, from, bytes);
  else
    cuda::copy(to, to_device, from, from_device, bytes);
}

void zero_bytes(void* at, Device device, int64_t bytes) {
  if (bytes == 0 || device.dry) return;
  if (device.kind == DeviceKind::cpu)
    std::memset(at, 0, bytes);
  else
    cuda::zero(at, device.index, bytes);
}

PinnedBuffer::PinnedBuffer(Device gpu, int64_t bytes)
    : gpu_(gpu), bytes_(bytes), memory_(cuda::allocate_pinned(bytes)) {
  counter(DeviceKind::cpu).add(bytes);
}

PinnedBuffer::~PinnedBuffer() {
  counter(DeviceKind::cpu).current -= bytes_;
  if (memory_) cuda::release_pinned(memory_, bytes_, last_);
}

void PinnedBuffer::copy_from_gpu(const void* from) {
  last_ = cuda::copy_pinned(memory_, from, bytes_, gpu_.index);
}
void PinnedBuffer::copy_to_gpu(void* to) { last_ = cuda::copy_pinned(to, memory_, bytes_, gpu_.index); }
void PinnedBuffer::wait(const std::string& call) const { last_.wait(call); }

int64_t pinned_bytes() { return cuda::pinned_bytes(); }

MemoryUse memory_use(DeviceKind kind) { return {counter(kind).current, counter(kind).peak}; }
MemoryUse dry_memory_use() { return {dry_counter().current, dry_counter().peak}; }
void reset_dry_memory_peak() { dry_counter().peak = dry_counter().current.load(); }
void reset_memory_peak(DeviceKind kind) { counter(kind).peak = counter(kind).current.load(); }

}  // namespace wuneng
