#include "kernels/cuda/common/upload.h"

#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>

#include "runtime/cuda/graph.h"

namespace wuneng::kernels::cuda {
namespace {

constexpr int64_t kMost = 32 << 20;  // bytes of recent tables

// Tables by their content. Those that have not been asked for while as many bytes of others came are dropped.
class Kept {
 public:
  Tensor* find(const std::string& content) {
    if (const auto found = recent_.find(content); found != recent_.end()) return &found->second;
    const auto found = before_.find(content);
    if (found == before_.end()) return nullptr;
    return &add(content, found->second);
  }
  Tensor& add(const std::string& content, Tensor table) {
    if (bytes_ + table.bytes() > kMost) {
      before_ = std::move(recent_);
      recent_ = {};
      bytes_ = 0;
    }
    bytes_ += table.bytes();
    return recent_[content] = std::move(table);
  }

 private:
  std::unordered_map<std::string, Tensor> recent_, before_;
  int64_t bytes_ = 0;  // of the recent ones
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
  const Tensor* table = here.find(content);
  if (!table) {
    const Tensor host = Tensor::empty({count}, type);
    std::memcpy(host.raw(), content.data() + 1, static_cast<size_t>(host.bytes()));
    if (const Tensor of_graph = wuneng::cuda::table_for_graph(device.index, host); of_graph.defined())
      return of_graph;
    table = &here.add(content, host.to(device));
  }
  wuneng::cuda::keep_for_graph(device.index, *table);
  return *table;
}

}  // namespace wuneng::kernels::cuda
