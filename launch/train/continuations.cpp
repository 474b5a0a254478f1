#include "launch/train/continuations.h"

#include <algorithm>

#include "runtime/error.h"

namespace wuneng {

std::vector<Prompt> prompts_of(const MicroBatch& batch, int64_t least) {
  const int32_t *tokens = batch.tokens.data<int32_t>(), *labels = batch.labels.data<int32_t>();
  std::vector<Prompt> out;
  for (size_t i = 0; i + 1 < batch.documents.size(); ++i) {
    const int64_t begin = batch.documents[i], end = batch.documents[i + 1];
    int64_t first = begin;
    while (first < end && labels[first] == kNoLabel) ++first;
    const int64_t size = std::max(least, first - begin + 1);
    if (first < end && begin + size < end)
      out.push_back({begin, end, {tokens + begin, tokens + begin + size}});
  }
  return out;
}

void put_continuation(MicroBatch& batch, const Prompt& prompt, const std::vector<int32_t>& generated) {
  const int64_t count = std::ssize(generated), size = std::ssize(prompt.tokens);
  require(count > 0 && count <= prompt.missing(),
          "a continuation of rows {}..{}: expected 1 to {} tokens, found {}", prompt.begin, prompt.end,
          prompt.missing(), count);
  int32_t *tokens = batch.tokens.data<int32_t>() + prompt.begin,
          *labels = batch.labels.data<int32_t>() + prompt.begin;
  for (int64_t row = 0; row < prompt.end - prompt.begin; ++row) {
    const int64_t behind = row - size;  // generated tokens before this row's, where it is not negative
    tokens[row] = behind < 0 ? prompt.tokens[row] : generated[std::min(behind, count - 1)];
    labels[row] = behind < -1 || behind + 1 >= count ? kNoLabel : generated[behind + 1];
  }
}

}  // namespace wuneng
