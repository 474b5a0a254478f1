#include "data/text/chat_template.h"

#include <xxhash.h>

#include <nlohmann/json.hpp>

#include "data/text/python_json.h"
#include "data/text/template_files.h"
#include "runtime/error.h"

namespace wuneng {
namespace {

using Json = nlohmann::ordered_json;

// XXH3 of the template's text without the default system message.
constexpr uint64_t kTemplate = 0xeabb709d63012ada;
constexpr struct {
  const char* name;
  const char* default_system;
} kModels[] = {
    {"Qwen2.5 Instruct", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
    {"Qwen2.5", "You are a helpful assistant."},
};

constexpr std::string_view kTools =
    "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided "
    "with "
    "function signatures within <tools></tools> XML tags:\n<tools>";
constexpr std::string_view kToolsEnd =
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": "
    "<args-json-object>}\n</tool_call><|im_end|>\n";
constexpr std::string_view kEnd = "<|im_end|>\n";

const Json& member(const Json& object, const char* key) {
  static const Json absent;
  const auto at = object.find(key);
  return at == object.end() ? absent : *at;
}

const std::string& string_of(const Json& object, const char* key, size_t message) {
  const Json& value = member(object, key);
  require(value.is_string(), "chat message {}: {}: expected a string, found {}", message, key, value.dump());
  return value.get_ref<const std::string&>();
}

// Jinja's truth value of a list that may be absent.
bool has_elements(const Json& list, const std::string& what) {
  require(list.is_null() || list.is_array(), "{}: expected a list, found {}", what, list.dump());
  return !list.empty();
}

std::string tool_calls_of(const Json& message, size_t number) {
  std::string text;
  for (const Json& entry : member(message, "tool_calls")) {
    const Json& call = entry.contains("function") ? entry["function"] : entry;
    require(call.is_object() && call.contains("arguments"),
            "chat message {}: tool_calls: expected an object with name and arguments, found {}", number,
            call.dump());
    text += "\n<tool_call>\n{\"name\": \"" + string_of(call, "name", number) + "\", \"arguments\": ";
    append_python_json(call["arguments"], text);
    text += "}\n</tool_call>";
  }
  return text;
}

}  // namespace

ChatTemplate ChatTemplate::recognise(std::string text, const std::string& where) {
  if (text.ends_with('\n')) text.pop_back();  // as Jinja does
  for (const auto& model : kModels) {
    const std::string_view system = model.default_system;
    std::string rest = text;
    for (size_t at; (at = rest.find(system)) != rest.npos;) rest.erase(at, system.size());
    if (XXH3_64bits(rest.data(), rest.size()) == kTemplate) return {model.name, model.default_system};
  }
  fail("{}: expected the chat template of Qwen2.5 or Qwen2.5 Instruct, found another of {} bytes", where,
       text.size());
}

ChatTemplate ChatTemplate::named(const std::string& name) {
  for (const auto& model : kModels)
    if (name == model.name) return {model.name, model.default_system};
  fail("chat template: expected Qwen2.5 Instruct or Qwen2.5, found \"{}\"", name);
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

std::vector<ChatSegment> ChatTemplate::render(const Json& messages, const Json& tools,
                                              bool add_generation_prompt) const {
  require(messages.is_array() && !messages.empty(), "chat: expected a list of at least one message, found {}",
          messages.dump());
  std::vector<ChatSegment> segments;
  const auto add = [&](bool assistant, const auto&... parts) {
    if (segments.empty() || segments.back().assistant != assistant) segments.push_back({"", assistant});
    (segments.back().text.append(parts), ...);
  };
  const auto role_of = [&](size_t i) -> std::string_view {
    return i < messages.size() && messages[i].is_object() ? string_of(messages[i], "role", i)
                                                          : std::string_view();
  };

  const bool system_given = role_of(0) == "system";
  add(false, "<|im_start|>system\n", system_given ? string_of(messages[0], "content", 0) : default_system_);
  if (has_elements(tools, "chat tools")) {
    std::string list;
    for (const Json& tool : tools) {
      list += '\n';
      append_python_json(tool, list);
    }
    add(false, kTools, list, kToolsEnd);
  } else {
    add(false, kEnd);
  }

  for (size_t i = system_given ? 1 : 0; i < messages.size(); ++i) {
    const Json& message = messages[i];
    require(message.is_object(), "chat message {}: expected an object, found {}", i, message.dump());
    const std::string_view role = role_of(i);
    if (role == "user" || role == "system") {
      add(false, "<|im_start|>", role, "\n", string_of(message, "content", i), kEnd);
    } else if (role == "assistant") {
      const bool calls =
          has_elements(member(message, "tool_calls"), fmt::format("chat message {}: tool_calls", i));
      const bool silent = calls && member(message, "content").is_null();
      // Tool calls begin with a line feed; without content, it is the line feed that ends the header.
      std::string text = silent ? "" : string_of(message, "content", i);
      if (calls) text += tool_calls_of(message, i).substr(text.empty() ? 1 : 0);
      add(false, "<|im_start|>assistant\n");
      add(member(message, "weight") != 0, text, kEnd);
    } else if (role == "tool") {
      if (role_of(i - 1) != "tool") add(false, "<|im_start|>user");
      add(false, "\n<tool_response>\n", string_of(message, "content", i), "\n</tool_response>");
      if (role_of(i + 1) != "tool") add(false, kEnd);
    } else {
      fail("chat message {}: role: expected system, user, assistant or tool, found \"{}\"", i, role);
    }
  }
  if (add_generation_prompt) add(false, "<|im_start|>assistant\n");
  return segments;
}

EncodedChat encode_chat(const Tokenizer& tokenizer, const ChatTemplate& chat_template, const Json& messages,
                        const Json& tools, bool add_generation_prompt) {
  const std::vector<ChatSegment> segments = chat_template.render(messages, tools, add_generation_prompt);
  std::vector<MarkedText> parts;
  for (const ChatSegment& segment : segments) parts.push_back({segment.text, segment.assistant});
  EncodedChat out;
  tokenizer.encode_marked(parts, out.ids, out.assistant);
  return out;
}

}  // namespace wuneng
