#include "model/repeated_layouts.h"

#include <algorithm>

namespace wuneng {
namespace {

// "4 documents of 2048 tokens", "7 documents of 12 to 2048 tokens".
std::string in_words(const std::vector<int64_t>& documents) {
  int64_t least = INT64_MAX, most = 0;
  for (size_t d = 0; d + 1 < documents.size(); ++d) {
    least = std::min(least, documents[d + 1] - documents[d]);
    most = std::max(most, documents[d + 1] - documents[d]);
  }
  const size_t count = documents.size() - 1;
  return fmt::format("{} document{} of {} tokens", count, count == 1 ? "" : "s",
                     least == most ? fmt::format("{}", most) : fmt::format("{} to {}", least, most));
}

}  // namespace

DocumentLayouts RepeatedLayouts::of(const std::vector<int64_t>& documents,
                                    const std::function<DocumentLayouts()>& make) {
  for (const Kept& kept : kept_)
    if (kept.documents == documents) return kept.layouts;
  const auto before = std::find(seen_.begin(), seen_.end(), documents);
  if (before != seen_.end() && kept_.size() < kMost) {
    seen_.erase(before);
    kept_.push_back({documents, make()});
    for (const auto& [chunk, layout] : kept_.back().layouts)
      if (chunk > 0) layout->recordings = std::make_shared<Recordings>(memory_, in_words(documents));
    return kept_.back().layouts;
  }
  if (before == seen_.end()) {
    if (!seen_.empty() && !std::exchange(reported_, true))
      memory_->notes.push_back(fmt::format(
          "chunk steps are launched one by one, without CUDA graphs, where a micro-batch's documents "
          "are cut as in none of the last {} micro-batches, or beyond the first {} cuts that come "
          "again",
          kRemembered, kMost));
    seen_.push_back(documents);
    if (seen_.size() > kRemembered) seen_.pop_front();
  }
  return make();
}

void RepeatedLayouts::forget() {
  kept_.clear();
  seen_.clear();
}

}  // namespace wuneng
