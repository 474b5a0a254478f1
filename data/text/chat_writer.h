// What the renderers of chat templates share: checked access to messages, tools and options, and the text
// that is written. One renderer for each template, in chatml_templates.cpp, llama3_templates.cpp and
// mistral_template.cpp.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "data/text/chat_template.h"

namespace wuneng {

class ChatWriter {
 public:
  using Json = nlohmann::ordered_json;

  ChatWriter(const std::string& name, const Json& messages, const Json& tools, const ChatOptions& options);

  size_t size() const { return messages_.size(); }
  // "" behind the last message.
  std::string_view role(size_t i) const;
  // An Error unless it is a string.
  const std::string& content(size_t i) const;
  bool has_content(size_t i) const;  // present and not null
  const Json& member(size_t i, const char* key) const;
  const Json& message(size_t i) const { return messages_[i]; }
  bool learnt(size_t i) const { return member(i, "weight") != 0; }
  // An assistant's calls with a name and arguments: {"function": {...}} or the function alone.
  std::vector<Json> calls(size_t i) const;
  // The function of a call.
  static const Json& function_of(const Json& call);
  const std::vector<Json>& tools() const { return tools_; }
  bool prompts() const { return options_.add_generation_prompt; }
  // What some templates have; where it is given and not asked for, it is refused.
  const Json& reasoning(size_t i);  // an assistant's reasoning_content: null or a string
  std::optional<bool> enable_thinking();
  std::optional<std::string> date_string();

  template <class... Parts>
  void add(bool assistant, const Parts&... parts) {
    if (segments_.empty() || segments_.back().assistant != assistant) segments_.push_back({"", assistant});
    (segments_.back().text.append(parts), ...);
  }

  // For templates that would leave them out.
  void refuse_tools() const;
  void refuse_calls(size_t i) const;

  std::vector<ChatSegment> finish();

 private:
  std::string name_;  // of the template
  const Json& messages_;
  std::vector<Json> tools_;
  ChatOptions options_;
  bool reasoning_known_ = false, thinking_known_ = false, date_known_ = false;
  std::vector<ChatSegment> segments_;
};

// The renderers. default_system: of Qwen2.5's models and SmolLM2, which differ in it.
void render_qwen25(ChatWriter& chat, const char* default_system);
void render_qwen3(ChatWriter& chat, const char* default_system);
void render_qwen3_2507(ChatWriter& chat, const char* default_system);
void render_smollm2(ChatWriter& chat, const char* default_system);
void render_llama3(ChatWriter& chat, const char* default_system);
void render_llama31(ChatWriter& chat, const char* default_system);
void render_llama32(ChatWriter& chat, const char* default_system);
void render_mistral_nemo(ChatWriter& chat, const char* default_system);

}  // namespace wuneng
