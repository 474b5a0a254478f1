// Qwen2.5's chat template: renders messages and tools to the text that the Jinja template in
// tokenizer_config.json produces, and to tokens with the assistant mask.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "data/tokenizer/tokenizer.h"

namespace wuneng {

// A part of the rendered text.
struct ChatSegment {
  std::string text;
  bool assistant;  // an assistant's content with the "<|im_end|>\n" after it: tokens with a loss
};

struct EncodedChat {
  std::vector<int32_t> ids;
  std::vector<uint8_t> assistant;  // of each id: 1 or 0
};

class ChatTemplate {
 public:
  // The template of a model's directory (data/text/template_files.h). Qwen2.5's Instruct and base models
  // differ only in the default system message; any other template is an error.
  static ChatTemplate load(const std::string& directory);
  // From the template's text; `where` names it in error messages.
  static ChatTemplate recognise(std::string text, const std::string& where);
  // "Qwen2.5 Instruct" or "Qwen2.5": without a directory.
  static ChatTemplate named(const std::string& name);

  // messages: [{"role": "system"|"user"|"assistant"|"tool", "content": ..., "tool_calls": [...]}, ...] and
  // tools as in Hugging Face's apply_chat_template; null or [] for no tools. "weight": 0 takes an assistant's
  // message out of the loss. A message without content or with an unknown role, which the Jinja template
  // fails on or ignores, is an error.
  std::vector<ChatSegment> render(const nlohmann::ordered_json& messages, const nlohmann::ordered_json& tools,
                                  bool add_generation_prompt) const;

  const std::string& name() const { return name_; }  // of the models with this template

 private:
  ChatTemplate(std::string name, std::string default_system)
      : name_(std::move(name)), default_system_(std::move(default_system)) {}

  std::string name_, default_system_;
};

// The ids of the rendered text. A token that begins before the assistant's content and extends into it
// ("\n\n" if the content begins with a line feed) counts as the assistant's.
EncodedChat encode_chat(const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                        const nlohmann::ordered_json& messages, const nlohmann::ordered_json& tools,
                        bool add_generation_prompt);

}  // namespace wuneng
