#include "kernels/cuda/common/upload.h"

#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>

namespace wuneng::kernels::cuda {
namespace {

constexpr int64_t kMost = 64 << 20;  // bytes cached; a table that exceeds it clears the cache

struct Kept {
  std::unordered_map<std::string, Tensor> by_content;
  int64_t bytes = 0;
};

}  // namespace

Tensor upload(const void* values, int64_t count, DType type, Device device) {
  static std::mutex mutex;
  static auto* const kept =
      new std::map<int, Kept>;  // by GPU; never destroyed: neither is the owner of its memory
  std::string content(1, static_cast<char>(type));
  content.append(static_cast<const char*>(values), static_cast<size_t>(count * size_of(type)));
  const std::lock_guard lock(mutex);
  Kept& here = (*kept)[device.index];
  if (const auto found = here.by_content.find(content); found != here.by_content.end()) return found->second;
  const Tensor host = Tensor::empty({count}, type);
  std::memcpy(host.raw(), content.data() + 1, static_cast<size_t>(host.bytes()));
  const Tensor table = host.to(device);
  if (here.bytes + table.bytes() > kMost) here = {};
  here.bytes += table.bytes();
  here.by_content.emplace(std::move(content), table);
  return table;
}

}  // namespace wuneng::kernels::cuda
