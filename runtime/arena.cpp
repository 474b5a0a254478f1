#include "runtime/arena.h"

#include <algorithm>

#include "runtime/error.h"

namespace wuneng {

Arena::Arena(int64_t bytes) : size_(bytes / kAlignment * kAlignment) { add(0, size_); }

std::optional<int64_t> Arena::take(int64_t bytes) {
  const int64_t needed = rounded(std::max<int64_t>(1, bytes));
  const auto found = by_size_.lower_bound({needed, 0});
  if (found == by_size_.end()) return std::nullopt;
  const auto [size, offset] = *found;
  remove(ranges_.find(offset));
  add(offset + needed, size - needed);
  return offset;
}

void Arena::put(int64_t offset, int64_t bytes) {
  int64_t begin = offset, size = rounded(std::max<int64_t>(1, bytes));
  WUNENG_ASSERT(begin >= 0 && begin + size <= size_);
  auto after = ranges_.lower_bound(begin);
  if (after != ranges_.end() && after->first == begin + size) {
    size += after->second;
    remove(after++);
  }
  if (after != ranges_.begin()) {
    const auto before = std::prev(after);
    WUNENG_ASSERT(before->first + before->second <= begin);
    if (before->first + before->second == begin) {
      begin = before->first;
      size += before->second;
      remove(before);
    }
  }
  add(begin, size);
}

void Arena::add(int64_t offset, int64_t bytes) {
  if (bytes == 0) return;
  ranges_[offset] = bytes;
  by_size_.insert({bytes, offset});
  free_ += bytes;
}

void Arena::remove(std::map<int64_t, int64_t>::iterator range) {
  free_ -= range->second;
  by_size_.erase({range->second, range->first});
  ranges_.erase(range);
}

}  // namespace wuneng
