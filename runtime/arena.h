// Which parts of one block of memory are free. Knows no GPU: offsets alone.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <set>

namespace wuneng {

class Arena {
 public:
  explicit Arena(int64_t bytes);
  // The offset of the smallest free range that has room, aligned to 512 bytes; nothing where there is none.
  std::optional<int64_t> take(int64_t bytes);
  // Frees what take(bytes) has given at `offset`; neighbours that are free become one range.
  void put(int64_t offset, int64_t bytes);

  int64_t size() const { return size_; }
  int64_t free_bytes() const { return free_; }
  int64_t largest() const { return by_size_.empty() ? 0 : by_size_.rbegin()->first; }

 private:
  static int64_t rounded(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }
  void add(int64_t offset, int64_t bytes);
  void remove(std::map<int64_t, int64_t>::iterator range);

  static constexpr int64_t kAlignment = 512;
  int64_t size_, free_ = 0;
  std::map<int64_t, int64_t> ranges_;              // offset -> bytes
  std::set<std::pair<int64_t, int64_t>> by_size_;  // {bytes, offset}
};

}  // namespace wuneng
