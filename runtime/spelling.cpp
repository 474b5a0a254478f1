#include "runtime/spelling.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace wuneng {
namespace {

size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0]++;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t next = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = std::exchange(row[j], next);
    }
  }
  return row.back();
}

}  // namespace

std::string nearest_word(const std::string& word, const std::vector<std::string>& words) {
  std::string nearest;
  size_t limit = std::max<size_t>(3, word.size() / 3);
  for (const std::string& other : words)
    if (const size_t distance = edit_distance(word, other); distance < limit)
      limit = distance, nearest = other;
  return nearest;
}

}  // namespace wuneng
