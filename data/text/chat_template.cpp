#include "data/text/chat_template.h"

#include <algorithm>

#include "data/text/chat_writer.h"
#include "data/text/template_files.h"
#include "runtime/error.h"
#include "runtime/hash.h"

namespace wuneng {

// Some models had several templates that differ in nothing that is rendered here.
struct ChatTemplate::Known {
  const char* name;
  uint64_t hash;  // XXH3 of the template's text without the default system message
  void (*render)(ChatWriter&, const char* default_system);
  const char* default_system = "";
};

const std::vector<ChatTemplate::Known>& ChatTemplate::all() {
  static const std::vector<Known> known = {
      {"Qwen2.5 Instruct", 0xeabb709d63012ada, render_qwen25,
       "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
      {"Qwen2.5", 0xeabb709d63012ada, render_qwen25, "You are a helpful assistant."},
      {"Qwen3", 0xc9e0155c80737cf2, render_qwen3},
      {"Qwen3", 0x0283f874ff58d644, render_qwen3},
      {"Qwen3 Instruct 2507", 0x8fb5d937b1e8f5d0, render_qwen3_2507},
      {"SmolLM2 Instruct", 0x0d6850922b3e41b2, render_smollm2,
       "You are a helpful AI assistant named SmolLM, trained by Hugging Face"},
      {"Llama 3 Instruct", 0x9799ad6e2dea0594, render_llama3},
      {"Llama 3.1 Instruct", 0x6ca7779b7730196a, render_llama31},
      {"Llama 3.2 Instruct", 0xc3d57e38f5ff0756, render_llama32},
      {"Mistral NeMo Instruct", 0xcae647ce0048756b, render_mistral_nemo},
  };
  return known;
}

std::vector<std::string> ChatTemplate::names() {
  std::vector<std::string> out;
  for (const Known& known : all())
    if (std::find(out.begin(), out.end(), known.name) == out.end()) out.emplace_back(known.name);
  return out;
}

ChatTemplate::ChatTemplate(const Known& known)
    : name_(known.name), render_(known.render), default_system_(known.default_system) {}

ChatTemplate ChatTemplate::recognise(std::string text, const std::string& where) {
  if (text.ends_with('\n')) text.pop_back();  // as Jinja does
  for (const Known& known : all()) {
    const std::string_view system = known.default_system;
    std::string rest = text;
    if (!system.empty())
      for (size_t at; (at = rest.find(system)) != rest.npos;) rest.erase(at, system.size());
    if (hash_of(rest.data(), std::ssize(rest)) == known.hash) return ChatTemplate(known);
  }
  fail(
      "{}: expected the chat template of {}, found another of {} bytes; --chat-template takes one of these "
      "by "
      "name, and text that is no chat needs none",
      where, fmt::join(names(), ", "), text.size());
}

ChatTemplate ChatTemplate::named(const std::string& name) {
  for (const Known& known : all())
    if (name == known.name) return ChatTemplate(known);
  fail("chat template: expected {}, found \"{}\"", fmt::join(names(), ", "), name);
}

ChatTemplate ChatTemplate::load(const std::string& directory) {
  const std::map<std::string, TemplateFile> files = read_template_files(directory);
  const auto& [text, where] = files.at("default");
  ChatTemplate out = recognise(text, where);
  // Hugging Face renders chats with tools by this one.
  if (const auto tools = files.find("tool_use"); tools != files.end()) {
    const std::string found = recognise(tools->second.text, tools->second.where).name();
    require(found == out.name(), "{}: expected the template of {} as in {}, found that of {}",
            tools->second.where, out.name(), where, found);
  }
  return out;
}

std::vector<ChatSegment> ChatTemplate::render(const nlohmann::ordered_json& messages,
                                              const nlohmann::ordered_json& tools,
                                              const ChatOptions& options) const {
  ChatWriter chat(name_, messages, tools, options);
  render_(chat, default_system_);
  return chat.finish();
}

EncodedChat encode_chat(const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                        const nlohmann::ordered_json& messages, const nlohmann::ordered_json& tools,
                        const ChatOptions& options) {
  const std::vector<ChatSegment> segments = chat_template.render(messages, tools, options);
  std::vector<MarkedText> parts;
  for (const ChatSegment& segment : segments) parts.push_back({segment.text, segment.assistant});
  EncodedChat out;
  tokenizer.encode_marked(parts, out.ids, out.assistant);
  return out;
}

}  // namespace wuneng
