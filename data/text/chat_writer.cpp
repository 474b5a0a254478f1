#include "data/text/chat_writer.h"

#include "runtime/error.h"

namespace wuneng {
namespace {

using Json = ChatWriter::Json;

// Jinja's truth value of a list that may be absent.
bool has_elements(const Json& list, const std::string& what) {
  require(list.is_null() || list.is_array(), "{}: expected a list, found {}", what, list.dump());
  return !list.empty();
}

}  // namespace

ChatWriter::ChatWriter(const std::string& name, const Json& messages, const Json& tools,
                       const ChatOptions& options)
    : name_(name), messages_(messages), options_(options) {
  require(messages.is_array() && !messages.empty(), "chat: expected a list of at least one message, found {}",
          messages.dump());
  for (size_t i = 0; i < messages.size(); ++i) {
    require(messages[i].is_object(), "chat message {}: expected an object, found {}", i, messages[i].dump());
    const std::string_view r = role(i);
    if (r != "system" && r != "user" && r != "assistant" && r != "tool")
      fail("chat message {}: role: expected system, user, assistant or tool, found \"{}\"", i, r);
  }
  if (has_elements(tools, "chat tools")) tools_ = tools.get<std::vector<Json>>();
}

const Json& ChatWriter::member(size_t i, const char* key) const {
  static const Json absent;
  const auto at = messages_[i].find(key);
  return at == messages_[i].end() ? absent : *at;
}

std::string_view ChatWriter::role(size_t i) const {
  if (i >= size()) return {};
  const Json& value = member(i, "role");
  require(value.is_string(), "chat message {}: role: expected a string, found {}", i, value.dump());
  return value.get_ref<const std::string&>();
}

bool ChatWriter::has_content(size_t i) const { return !member(i, "content").is_null(); }

const std::string& ChatWriter::content(size_t i) const {
  const Json& value = member(i, "content");
  require(value.is_string(), "chat message {}: content: expected a string, found {}", i, value.dump());
  return value.get_ref<const std::string&>();
}

const Json& ChatWriter::function_of(const Json& call) {
  return call.contains("function") ? call["function"] : call;
}

std::vector<Json> ChatWriter::calls(size_t i) const {
  const Json& list = member(i, "tool_calls");
  if (!has_elements(list, fmt::format("chat message {}: tool_calls", i))) return {};
  for (const Json& entry : list) {
    const Json& call = function_of(entry);
    require(call.is_object() && call.contains("arguments"),
            "chat message {}: tool_calls: expected an object with name and arguments, found {}", i,
            call.dump());
    require(call.contains("name") && call["name"].is_string(),
            "chat message {}: tool_calls: name: expected a string, found {}", i, call.dump());
  }
  return list.get<std::vector<Json>>();
}

const Json& ChatWriter::reasoning(size_t i) {
  reasoning_known_ = true;
  const Json& value = member(i, "reasoning_content");
  require(value.is_null() || value.is_string(),
          "chat message {}: reasoning_content: expected a string, found {}", i, value.dump());
  return value;
}

std::optional<bool> ChatWriter::enable_thinking() {
  thinking_known_ = true;
  return options_.enable_thinking;
}

std::optional<std::string> ChatWriter::date_string() {
  date_known_ = true;
  return options_.date_string;
}

void ChatWriter::refuse_tools() const {
  require(tools_.empty(), "chat tools: expected none, since the chat template of {} has no place for them",
          name_);
}

void ChatWriter::refuse_calls(size_t i) const {
  require(calls(i).empty(),
          "chat message {}: tool_calls: expected none, since the chat template of {} has no place for them",
          i, name_);
}

std::vector<ChatSegment> ChatWriter::finish() {
  const auto known = [&](bool asked, bool given, const char* option) {
    require(asked || !given, "chat option {}: expected none, since the chat template of {} does not have it",
            option, name_);
  };
  known(thinking_known_, options_.enable_thinking.has_value(), "enable_thinking");
  known(date_known_, options_.date_string.has_value(), "date_string");
  for (size_t i = 0; i < size(); ++i) {
    const Json& reasoning = member(i, "reasoning_content");
    require(
        reasoning_known_ || reasoning.is_null() || reasoning == "",
        "chat message {}: reasoning_content: expected none, since the chat template of {} has no place for "
        "it",
        i, name_);
  }
  return std::move(segments_);
}

}  // namespace wuneng
