// Records (data/text/record.h) to tokens and labels: and the loss mask of each.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/text/record.h"
#include "data/tokenizer/text_codec.h"

namespace wuneng {

// What a data set is for.
//
//   text        every token has a loss: text; chats and prompts with completions as well, if someone wants so
//   supervised  answers have a loss: the assistant's turns of a chat, a completion; text whole
//   preference  pairs: the same prompt with the chosen and the rejected answer, of each the answer has a loss
enum class DataKind { text, supervised, preference };
const char* to_string(DataKind kind);
// The kind that a record is made for.
DataKind kind_of(const Record& record);

// A document's tokens, and for each its loss mask: 1 where the token has a loss, 0 where it is only read.
struct Tokens {
  std::vector<int32_t> ids;
  std::vector<uint8_t> loss_mask;
};

// Called by several threads at once.
class RecordEncoder {
 public:
  // end: a token behind each document that is not a chat, for a chat's template ends it itself.
  RecordEncoder(TextCodec codec, DataKind kind, std::optional<int32_t> end)
      : codec_(std::move(codec)), kind_(kind), end_(end) {}

  const TextCodec& codec() const { return codec_; }
  DataKind kind() const { return kind_; }
  int documents() const { return kind_ == DataKind::preference ? 2 : 1; }
  // The record's documents: one, or of a pair the chosen, then the rejected. An Error makes it a bad line.
  std::vector<Tokens> encode(const Record& record) const;

 private:
  Tokens text(const std::string& text) const;
  Tokens answer(const std::string& prompt, const std::string& answer) const;
  Tokens chat(const std::vector<Message>& messages, const Json& tools) const;
  Tokens chat_answer(const Record& record, const std::vector<Message>& answer) const;
  void end(Tokens& tokens) const;

  TextCodec codec_;
  DataKind kind_;
  std::optional<int32_t> end_;
};

}  // namespace wuneng
