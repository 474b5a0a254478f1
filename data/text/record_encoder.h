// RecordEncoder: records (data/text/record.h) to tokens with a loss mask.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/text/record.h"
#include "data/tokenizer/text_codec.h"

namespace wuneng {

// Which tokens have a loss.
//
//   text        all tokens, also of chats and prompts with completions
//   supervised  answers: the assistant's messages of a chat, a completion; all tokens of text
//   preference  pairs of the same prompt with the chosen and with the rejected answer: the answers
enum class DataKind { text, supervised, preference };
const char* to_string(DataKind kind);
// The natural kind of a record, for --kind auto.
DataKind kind_of(const Record& record);

// The tokens of a document and their loss mask: 1 if the token has a loss, else 0.
struct Tokens {
  std::vector<int32_t> ids;
  std::vector<uint8_t> loss_mask;
};

// Thread-safe.
class RecordEncoder {
 public:
  // end: a token after each document that is not a chat (a chat template has its own end token), unless it is
  // the last of those that the tokenizer puts after a text itself. pure: a record of another natural kind is
  // an error. options: of chats, without a generation prompt.
  RecordEncoder(TextCodec codec, DataKind kind, std::optional<int32_t> end, bool pure = false,
                ChatOptions options = {})
      : codec_(std::move(codec)), kind_(kind), end_(end), pure_(pure), options_(std::move(options)) {}

  const TextCodec& codec() const { return codec_; }
  DataKind kind() const { return kind_; }
  int documents() const { return kind_ == DataKind::preference ? 2 : 1; }
  // The documents of the record: one, or for a pair the chosen and the rejected one. Throws an Error for a
  // bad line.
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
  bool pure_;
  ChatOptions options_;
};

}  // namespace wuneng
