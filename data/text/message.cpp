#include "data/text/message.h"

#include <algorithm>

#include "data/text/members.h"
#include "runtime/error.h"

namespace wuneng {
namespace {

using Ignored = const std::vector<std::string>&;

// An object, or JSON of one in a string; nothing in it stands for no arguments.
Json arguments(const Json* value, const std::string& name) {
  if (!value) return Json::object();
  Json parsed = *value;
  if (value->is_string()) {
    const auto& text = value->get_ref<const std::string&>();
    if (text.find_first_not_of(" \t\r\n") == text.npos) return Json::object();
    parsed = parse_exact_json(text, name);
    if (parsed.is_null()) return Json::object();
  }
  require(parsed.is_object(), "{}: expected an object, found {}", name, parsed.type_name());
  return parsed;
}

ToolCall function_call(const Json& value, const std::string& name, Ignored ignored) {
  Members call(value, name, ignored);
  ToolCall out{call.text("name"), arguments(call.find("arguments"), name + ".arguments")};
  if (const Json* id = call.find("id")) out.id = text_of(*id, name + ".id");
  call.refuse_others();
  return out;
}

// OpenAI's {"id", "type": "function", "function": {...}}, or the function alone.
ToolCall tool_call(const Json& value, const std::string& name, Ignored ignored) {
  Members outer(value, name, ignored);
  const std::string type = outer.optional_text("type");
  require(type.empty() || type == "function", "{}.type: expected function, found {}", name, type);
  const Json* function = outer.find("function");
  if (!function) {
    Json bare = value;
    bare.erase("type");
    return function_call(bare, name, ignored);
  }
  ToolCall out = function_call(*function, name + ".function", ignored);
  if (const Json* id = outer.find("id")) out.id = text_of(*id, name + ".id");
  outer.refuse_others();
  return out;
}

std::string text_content(const Json& value, const std::string& name, Ignored ignored) {
  if (!value.is_array()) return text_of(value, name);
  std::string text;
  for (const Json& element : value) {
    Members part(element, name, ignored);
    const Json* type = part.find("type");
    require(type && *type == "text", "{}: expected parts of type \"text\", found {}", name,
            !type               ? "no type"
            : type->is_string() ? type->get<std::string>()
                                : type->type_name());
    text += part.text("text");
    part.refuse_others();
  }
  return text;
}

// OpenAI's "weight" of a message: whether it has a loss.
bool weight(Members& message, bool assistant) {
  const Json* value = message.find("weight");
  if (!value) return true;
  require(*value == 0 || *value == 1, "{}.weight: expected 0 or 1, found {}", message.where(), value->dump());
  require(assistant || *value == 0,
          "{}.weight: expected 0, since an assistant's messages alone have a loss, found 1", message.where());
  return *value == 1;
}

Message open_ai_message(Members& members, Ignored ignored) {
  const std::string& name = members.where();
  Message out;
  out.role = members.text("role");
  if (out.role == "developer") out.role = "system";
  if (out.role == "function") out.role = "tool";
  require(out.role == "system" || out.role == "user" || out.role == "assistant" || out.role == "tool",
          "{}.role: expected system, user, assistant or tool, found {}", name, out.role);
  const bool assistant = out.role == "assistant";
  if (assistant) {
    if (const Json* calls = members.find("tool_calls")) {
      require(calls->is_array(), "{}.tool_calls: expected a list, found {}", name, calls->type_name());
      for (const Json& call : *calls)
        out.tool_calls.push_back(tool_call(call, name + ".tool_calls", ignored));
    }
    if (const Json* reasoning = members.find("reasoning_content"))
      out.reasoning = text_of(*reasoning, name + ".reasoning_content");
    if (const Json* call = members.find("function_call")) {
      require(out.tool_calls.empty(), "{}: expected tool_calls or function_call, found both", name);
      out.tool_calls.push_back(function_call(*call, name + ".function_call", ignored));
    }
  }
  if (out.role == "tool") {
    members.find("name");  // the call says which function it was
    out.tool_call_id = members.optional_text("tool_call_id");
  }
  out.learnt = weight(members, assistant);
  const Json* content = members.find("content");
  require(content || !out.tool_calls.empty(), "{}: expected a member \"content\", found none", name);
  if (content) out.content = text_content(*content, name + ".content", ignored);
  return out;
}

// A function call's value is JSON: an object, or a list of them.
Message share_gpt_message(Members& members, Ignored ignored) {
  const std::string& name = members.where();
  const std::string from = members.text("from"), content = members.text("value");
  const bool calls = from == "function_call", assistant = calls || from == "gpt" || from == "assistant",
             tool = from == "observation" || from == "tool", user = from == "human" || from == "user";
  require(assistant || tool || user || from == "system",
          "{}.from: expected human, gpt, system, observation or function_call, found {}", name, from);
  if (tool) members.find("name");
  Message out{assistant ? "assistant" : tool ? "tool" : user ? "user" : "system", calls ? "" : content};
  out.learnt = weight(members, assistant);
  if (!calls) return out;
  const Json value = parse_exact_json(content, name + ".value");
  for (const Json& call : value.is_array() ? value : Json::array({value}))
    out.tool_calls.push_back(tool_call(call, name + ".value", ignored));
  return out;
}

// Templates print results in their order, without the ids that would say which call each one answers.
void check_results(const std::vector<Message>& messages, const std::string& name) {
  std::vector<std::string> calls;  // ids
  size_t next = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    const Message& message = messages[i];
    if (message.role != "tool") {
      calls.clear();
      next = 0;
      for (const ToolCall& call : message.tool_calls)
        if (!call.id.empty()) calls.push_back(call.id);
    } else if (!message.tool_call_id.empty() && !calls.empty()) {
      const std::string expected = next < calls.size() ? calls[next] : "no further result";
      require(message.tool_call_id == expected,
              "{}[{}].tool_call_id: expected {}, since results are in the order of their calls, found {}",
              name, i, expected, message.tool_call_id);
      ++next;
    }
  }
}

}  // namespace

Json to_json(const std::vector<Message>& messages) {
  Json out = Json::array();
  for (const Message& m : messages) {
    Json message = {{"role", m.role}, {"content", m.content}};
    if (!m.learnt) message["weight"] = 0;
    if (m.reasoning) message["reasoning_content"] = *m.reasoning;
    if (!m.tool_call_id.empty()) message["tool_call_id"] = m.tool_call_id;
    for (const ToolCall& call : m.tool_calls) {
      Json entry = {{"type", "function"}, {"function", {{"name", call.name}, {"arguments", call.arguments}}}};
      if (!call.id.empty()) entry["id"] = call.id;
      message["tool_calls"].push_back(std::move(entry));
    }
    out.push_back(std::move(message));
  }
  return out;
}

std::vector<Message> read_messages(const Json& list, const std::string& name, Ignored ignored) {
  require(list.is_array() && !list.empty(), "{}: expected a list of messages, found {}", name,
          list.is_array() ? "an empty one" : list.type_name());
  std::vector<Message> out;
  for (const Json& value : list) {
    Members members(value, fmt::format("{}[{}]", name, out.size()), ignored);
    out.push_back(members.has("from") ? share_gpt_message(members, ignored)
                                      : open_ai_message(members, ignored));
    members.refuse_others();
  }
  check_results(out, name);
  return out;
}

}  // namespace wuneng
