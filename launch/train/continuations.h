// A micro-batch whose documents are continued by a model: what is kept of them, and what they become.
#pragma once
#include <cstdint>
#include <vector>

#include "runtime/micro_batch.h"

namespace wuneng {

// Of a document in rows [begin, end) of a micro-batch.
struct Prompt {
  int64_t begin, end;
  std::vector<int32_t> tokens;  // its first ones, which are kept
  // Tokens to generate: for the rows behind the prompt, and the label of the last one.
  int64_t missing() const { return end - begin - static_cast<int64_t>(tokens.size()) + 1; }
};

// A document's prompt goes to the first token that has a loss (of a chat: to the first answer) and has at
// least `least` tokens. Documents without a loss, and those that are no longer than their prompt, have none.
std::vector<Prompt> prompts_of(const MicroBatch& batch, int64_t least);

// Replaces tokens and labels of a document, in place: the prompt, then `generated`, at most prompt.missing()
// tokens. Only generated tokens have a loss. Where there are fewer, the last one of them, which ended the
// text, fills the rows that are left, which have no loss.
void put_continuation(MicroBatch& batch, const Prompt& prompt, const std::vector<int32_t>& generated);

}  // namespace wuneng
