// Text to tokens and back, for a program that does not care how: as bytes, or with a model's tokenizer.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/text/chat_template.h"
#include "data/tokenizer/tokenizer.h"

namespace wuneng {

// Threads may use one at once; copies share what is large.
class TextCodec {
 public:
  // The token is the byte. Without chats and without a token between documents.
  static TextCodec bytes() { return {}; }
  // A model's directory with tokenizer.json, or vocab.json and merges.txt. The chat template is the
  // directory's own, or the one of this name (ChatTemplate::named).
  static TextCodec load(const std::string& directory, const std::string& chat_template = "");
  static bool has_tokenizer(const std::string& directory);

  void encode(std::string_view text, std::vector<int32_t>& ids) const;
  std::string_view bytes_of(int32_t id) const;  // empty for an id without a token
  int32_t vocab_size() const;
  // Says which tokenizer made given ids: equal where ids mean the same.
  std::string name() const;
  // Behind each document of plain text, where the tokenizer has it.
  std::optional<int32_t> end_of_text() const { return id_of("<|endoftext|>"); }
  // Does this token end what a model writes?
  bool ends(int32_t id) const { return id == end_of_text() || id == id_of("<|im_end|>"); }
  std::optional<int32_t> id_of(std::string_view token) const;

  // A whole chat with what the assistant says marked. An error where there is no template.
  EncodedChat encode_chat(const nlohmann::ordered_json& messages, const nlohmann::ordered_json& tools,
                          bool add_generation_prompt) const;

 private:
  std::optional<Tokenizer> tokenizer_;
  std::optional<ChatTemplate> template_;
  std::string no_template_ = "bytes have no chat template: expected a tokenizer from a model's directory";
};

}  // namespace wuneng
