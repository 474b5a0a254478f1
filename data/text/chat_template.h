// Qwen2.5's chat template: messages and tools to the text that the Jinja template in tokenizer_config.json
// gives, and to tokens of which each is known to be the assistant's or not.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "data/tokenizer/tokenizer.h"

namespace wuneng {

// A stretch of the rendered text.
struct ChatSegment {
  std::string text;
  bool assistant;  // the assistant's content and the "<|im_end|>\n" behind it: what a model learns to write
};

struct EncodedChat {
  std::vector<int32_t> ids;
  std::vector<uint8_t> assistant;  // of each id: 1 or 0
};

class ChatTemplate {
 public:
  // The template of a model's directory: chat_template.jinja, else tokenizer_config.json's chat_template.
  // Qwen2.5's Instruct and base models have the same but for the default system message; any other template
  // is refused.
  static ChatTemplate load(const std::string& directory);
  // The same from the template's text; where names it in messages.
  static ChatTemplate recognise(std::string text, const std::string& where);
  // "Qwen2.5 Instruct" or "Qwen2.5": without a directory.
  static ChatTemplate named(const std::string& name);

  // messages: [{"role": "system"|"user"|"assistant"|"tool", "content": ..., "tool_calls": [...]}, ...] and
  // tools as in Hugging Face's apply_chat_template; null or [] for no tools. What the Jinja template would
  // stumble over (no content) or drop without a word (an unknown role) is refused.
  std::vector<ChatSegment> render(const nlohmann::ordered_json& messages, const nlohmann::ordered_json& tools,
                                  bool add_generation_prompt) const;

  const std::string& name() const { return name_; }  // of the models that have it

 private:
  ChatTemplate(std::string name, std::string default_system)
      : name_(std::move(name)), default_system_(std::move(default_system)) {}

  std::string name_, default_system_;
};

// The rendered text's ids. A token that begins before the assistant's content and reaches into it ("\n\n"
// where the content begins with a line feed) counts as the assistant's.
EncodedChat encode_chat(const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                        const nlohmann::ordered_json& messages, const nlohmann::ordered_json& tools,
                        bool add_generation_prompt);

}  // namespace wuneng
