#include "data/text/record.h"

#include <algorithm>
#include <initializer_list>

#include "runtime/error.h"
#include "runtime/json_depth.h"

namespace wuneng {
namespace {

const Json* find(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

std::string text_of(const Json& value, const std::string& name) {
  require(value.is_string(), "{}: expected a string, found {}", name, value.type_name());
  return value.get<std::string>();
}

std::string text_member(const Json& object, const char* key, const std::string& where) {
  const Json* value = find(object, key);
  require(value != nullptr, "{}: expected a member \"{}\", found none", where, key);
  return text_of(*value, where + "." + key);
}

std::string optional_text(const Json& object, const char* key) {
  const Json* value = find(object, key);
  return value ? text_of(*value, key) : "";
}

// JSON inside a string, as OpenAI's "arguments" and ShareGPT's "tools" have it.
Json unquoted(const Json& value, const std::string& name) {
  if (!value.is_string()) return value;
  const auto& text = value.get_ref<const std::string&>();
  require(!json_too_deep(text), "{}: expected JSON nested at most {} deep, found deeper", name, kDeepestJson);
  Json inner = Json::parse(text, nullptr, false);
  require(!inner.is_discarded(), "{}: expected JSON in the string, found something else", name);
  return inner;
}

ToolCall tool_call(const Json& value, const std::string& name) {
  require(value.is_object(), "{}: expected an object, found {}", name, value.type_name());
  const Json* wrapped = find(value, "function");  // OpenAI: {"type": "function", "function": {...}}
  const Json& call = wrapped ? *wrapped : value;
  require(call.is_object(), "{}.function: expected an object, found {}", name, call.type_name());
  const Json* arguments = find(call, "arguments");
  return {text_member(call, "name", name),
          arguments ? unquoted(*arguments, name + ".arguments") : Json::object()};
}

// A string, or OpenAI's list of parts of which all are text; null is empty.
std::string message_content(const Json* value, const std::string& name) {
  if (!value) return "";
  if (!value->is_array()) return text_of(*value, name);
  std::string text;
  for (const Json& part : *value) {
    require(part.is_object(), "{}: expected parts of type \"text\", found {}", name, part.type_name());
    const Json* type = find(part, "type");
    require(type && *type == "text", "{}: expected parts of type \"text\", found {}", name,
            !type               ? "no type"
            : type->is_string() ? type->get<std::string>()
                                : type->type_name());
    text += text_member(part, "text", name);
  }
  return text;
}

Message message(const Json& value, const std::string& name) {
  require(value.is_object(), "{}: expected an object, found {}", name, value.type_name());
  Message out;
  out.role = text_member(value, "role", name);
  require(out.role == "system" || out.role == "user" || out.role == "assistant" || out.role == "tool",
          "{}.role: expected system, user, assistant or tool, found {}", name, out.role);
  if (const Json* calls = find(value, "tool_calls")) {
    require(calls->is_array(), "{}.tool_calls: expected a list, found {}", name, calls->type_name());
    for (const Json& call : *calls) out.tool_calls.push_back(tool_call(call, name + ".tool_calls"));
  }
  const Json* content = find(value, "content");
  require(content || !out.tool_calls.empty(), "{}: expected a member \"content\", found none", name);
  out.content = message_content(content, name + ".content");
  return out;
}

// {"from", "value"}; a function call's value is JSON.
Message share_gpt_message(const Json& value, const std::string& name) {
  require(value.is_object(), "{}: expected an object, found {}", name, value.type_name());
  const std::string from = text_member(value, "from", name), content = text_member(value, "value", name);
  if (from == "human" || from == "user") return {"user", content};
  if (from == "gpt" || from == "assistant") return {"assistant", content};
  if (from == "system") return {"system", content};
  if (from == "observation" || from == "tool") return {"tool", content};
  require(from == "function_call",
          "{}.from: expected human, gpt, system, observation or function_call, found {}", name, from);
  const Json calls = unquoted(value.at("value"), name + ".value");
  Message out{"assistant", ""};
  for (const Json& call : calls.is_array() ? calls : Json::array({calls}))
    out.tool_calls.push_back(tool_call(call, name + ".value"));
  return out;
}

std::vector<Message> messages(const Json& list, const std::string& name) {
  require(list.is_array() && !list.empty(), "{}: expected a list of messages, found {}", name,
          list.is_array() ? "an empty one" : list.type_name());
  std::vector<Message> out;
  for (const Json& value : list) {
    const std::string where = fmt::format("{}[{}]", name, out.size());
    out.push_back(value.is_object() && value.contains("from") ? share_gpt_message(value, where)
                                                              : message(value, where));
  }
  return out;
}

// A string, a list of messages, or one message.
Content content(const Json& object, const char* key) {
  const Json& value = object.at(key);
  if (value.is_string()) return {value.get<std::string>(), {}};
  if (value.is_object()) return {"", messages(Json::array({value}), key)};
  return {"", messages(value, key)};
}

void to_chat(Content& content, const char* role) {
  if (content.is_chat()) return;
  content.messages.push_back({role, std::move(content.text)});
  content.text.clear();
}

// If one part is a list of messages, converts the others: a string becomes the content of one message.
void agree(Record& record) {
  if (!record.content.is_chat() && !record.chosen.is_chat() && !record.rejected.is_chat()) return;
  to_chat(record.content, "user");
  to_chat(record.chosen, "assistant");
  if (record.kind == Record::Kind::preference) to_chat(record.rejected, "assistant");
}

void read_tools(const Json& line, Record& record) {
  const Json* tools = find(line, "tools");
  if (!tools || (tools->is_string() && tools->get_ref<const std::string&>().empty())) return;
  record.tools = unquoted(*tools, "tools");
  require(record.tools.is_array(), "tools: expected a list, found {}", record.tools.type_name());
  if (record.tools.empty()) record.tools = nullptr;
}

void read_instruction(const Json& line, Record& record) {
  std::vector<Message>& out = record.content.messages;
  const std::string system = optional_text(line, "system"), input = optional_text(line, "input");
  if (!system.empty()) out.push_back({"system", system});
  if (const Json* history = find(line, "history")) {
    require(history->is_array(), "history: expected a list, found {}", history->type_name());
    for (const Json& turn : *history) {
      require(turn.is_array() && turn.size() == 2, "history: expected pairs of strings, found {}",
              turn.dump());
      out.push_back({"user", text_of(turn[0], "history")});
      out.push_back({"assistant", text_of(turn[1], "history")});
    }
  }
  const std::string instruction = text_member(line, "instruction", "line");
  out.push_back({"user", input.empty() ? instruction : instruction + "\n" + input});
}

std::string members(const Json& line) {
  std::string out;
  for (const auto& [key, value] : line.items()) out += (out.empty() ? "" : ", ") + key;
  return out.empty() ? "none" : out;
}

Record read_record(const Json& line) {
  const auto has = [&](std::initializer_list<const char*> keys) {
    return std::all_of(keys.begin(), keys.end(), [&](const char* key) { return find(line, key) != nullptr; });
  };
  Record record;
  const bool pair = has({"chosen", "rejected"});
  read_tools(line, record);
  if (has({"conversations"}) || has({"messages"})) {
    record.kind = Record::Kind::chat;
    const char* key = has({"messages"}) ? "messages" : "conversations";
    record.content.messages = messages(line.at(key), key);
    const std::string system = optional_text(line, "system");
    if (!system.empty() && record.content.messages[0].role != "system")
      record.content.messages.insert(record.content.messages.begin(), {"system", system});
  } else if (has({"instruction"})) {
    record.kind = Record::Kind::chat;
    read_instruction(line, record);
    if (!pair) record.content.messages.push_back({"assistant", text_member(line, "output", "line")});
  } else if (has({"prompt"}) && (pair || has({"completion"}))) {
    record.kind = Record::Kind::completion;
    record.content = content(line, "prompt");
    if (!pair) record.chosen = content(line, "completion");
  } else if (has({"text"})) {
    record.content.text = text_of(line.at("text"), "text");
    return record;
  } else {
    fail(
        "expected one of text; messages; conversations; instruction and output; prompt and completion; "
        "prompt, chosen and rejected; found {}",
        members(line));
  }
  if (pair) {
    record.kind = Record::Kind::preference;
    record.chosen = content(line, "chosen");
    record.rejected = content(line, "rejected");
  }
  agree(record);
  return record;
}

}  // namespace

Record parse_record(std::string_view line) {
  require(!json_too_deep(line), "expected JSON nested at most {} deep, found deeper", kDeepestJson);
  Json value;
  try {
    value = Json::parse(line);
  } catch (const Json::exception& e) {
    fail("expected a JSON object on the line: {}", e.what());
  }
  require(value.is_object(), "expected a JSON object, found {}{}", value.type_name(),
          value.is_array() ? " (convert a file that is one list to one object per line: jq -c '.[]')" : "");
  return read_record(value);
}

}  // namespace wuneng
