// Chat templates that are known: messages and tools to the text that the Jinja template of a model's
// directory produces, and to tokens with the assistant mask. docs/tokenizers.md lists them; there is no
// interpreter of Jinja here.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/tokenizer/tokenizer.h"

namespace wuneng {

// A part of the rendered text.
struct ChatSegment {
  std::string text;
  bool assistant;  // what the model writes in an assistant's turn, with the end of the turn: tokens with a
                   // loss
};

struct EncodedChat {
  std::vector<int32_t> ids;
  std::vector<uint8_t> assistant;  // of each id: 1 or 0
};

// Variables of templates beside messages and tools. One that the template does not have is an error.
struct ChatOptions {
  bool add_generation_prompt = false;
  std::optional<bool> enable_thinking = {};     // Qwen3: false ends the prompt with an empty thought
  std::optional<std::string> date_string = {};  // Llama 3.1 and 3.2: today, "26 Jul 2024"
  bool any() const { return enable_thinking || date_string; }
};

class ChatWriter;

class ChatTemplate {
 public:
  // The template of a model's directory (data/text/template_files.h); one that is not known is an error.
  static ChatTemplate load(const std::string& directory);
  // From the template's text; `where` names it in error messages.
  static ChatTemplate recognise(std::string text, const std::string& where);
  // Without a directory, by one of names().
  static ChatTemplate named(const std::string& name);
  static std::vector<std::string> names();

  // messages: [{"role": "system"|"user"|"assistant"|"tool", "content": ..., "tool_calls": [...]}, ...] and
  // tools as in Hugging Face's apply_chat_template; null or [] for no tools. "weight": 0 takes an assistant's
  // message out of the loss. What the Jinja template fails on or leaves out (a message without content, an
  // unknown role, tools where it has no place for them) is an error.
  std::vector<ChatSegment> render(const nlohmann::ordered_json& messages, const nlohmann::ordered_json& tools,
                                  const ChatOptions& options) const;

  const std::string& name() const { return name_; }  // of the models with this template

 private:
  struct Known;
  static const std::vector<Known>& all();
  explicit ChatTemplate(const Known& known);

  std::string name_;
  void (*render_)(ChatWriter&, const char* default_system);
  const char* default_system_;
};

// The ids of the rendered text. A token that begins before the assistant's content and extends into it
// ("\n\n" if the content begins with a line feed) counts as the assistant's.
EncodedChat encode_chat(const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                        const nlohmann::ordered_json& messages, const nlohmann::ordered_json& tools,
                        const ChatOptions& options);

}  // namespace wuneng
