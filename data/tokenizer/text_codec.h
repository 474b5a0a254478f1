// TextCodec: text to tokens and back, as bytes or with a model's tokenizer.
#pragma once
#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/text/chat_template.h"
#include "data/tokenizer/tokenizer.h"

namespace wuneng {

// Thread-safe; copies share their tables.
class TextCodec {
 public:
  // A token is a byte. No chat template and no end-of-text token.
  static TextCodec bytes() { return {}; }
  // From a model's directory with tokenizer.json, or vocab.json and merges.txt. The chat template is the one
  // with the given name (ChatTemplate::named), or if the name is empty, the directory's own.
  static TextCodec load(const std::string& directory, const std::string& chat_template = "");
  static bool has_tokenizer(const std::string& directory);

  void encode(std::string_view text, std::vector<int32_t>& ids) const;
  // Of a whole text, with the tokens that the tokenizer puts before and after one, as Hugging Face's do.
  std::vector<int32_t> encode_whole(std::string_view text) const;
  std::span<const int32_t> before() const;  // Llama 3: <|begin_of_text|>; Qwen2.5: none
  std::span<const int32_t> after() const;
  std::string_view bytes_of(int32_t id) const;  // empty for an id without a token
  bool is_special(int32_t id) const;            // no text for people: <|im_end|>
  int32_t vocab_size() const;
  // Identifies the tokenizer: equal names mean equal ids for the same text.
  std::string name() const;
  // The token after each document of plain text: <|endoftext|>, <|end_of_text|> or, without these, the
  // eos_token of tokenizer_config.json. None if the tokenizer has no such token.
  std::optional<int32_t> end_of_text() const { return end_of_text_; }
  // Whether generation stops at this token: end_of_text, <|im_end|>, <|eot_id|> or the eos_token.
  bool ends(int32_t id) const { return std::find(ends_.begin(), ends_.end(), id) != ends_.end(); }
  std::optional<int32_t> id_of(std::string_view token) const;

  // Encodes a chat with its assistant mask. Throws if there is no template.
  EncodedChat encode_chat(const nlohmann::ordered_json& messages, const nlohmann::ordered_json& tools,
                          const ChatOptions& options) const;
  // Throws if some of the options are set and there is no template, or one that does not have them.
  void check_chat_options(const ChatOptions& options) const;

 private:
  void find_ends(const std::string& directory);

  std::optional<Tokenizer> tokenizer_;
  std::optional<int32_t> end_of_text_;
  std::vector<int32_t> ends_;
  std::optional<ChatTemplate> template_;
  std::string no_template_ = "bytes have no chat template: expected a tokenizer from a model's directory";
};

}  // namespace wuneng
