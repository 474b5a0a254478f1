#include "data/text/record.h"

#include "data/text/members.h"
#include "runtime/error.h"

namespace wuneng {
namespace {

using Ignored = const std::vector<std::string>&;

// A string, a list of messages, or one message.
Content content(Members& line, const char* key, Ignored ignored) {
  const Json& value = *line.find(key);
  if (value.is_string()) return {value.get<std::string>(), {}};
  return {"", read_messages(value.is_object() ? Json::array({value}) : value, key, ignored)};
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
  if (record.kind != Record::Kind::chat) to_chat(record.chosen, "assistant");
  if (record.kind == Record::Kind::preference) to_chat(record.rejected, "assistant");
}

// A list, or JSON of one in a string (ShareGPT).
Json list_of(const Json& value, const std::string& name) {
  if (value.is_string() && value.get_ref<const std::string&>().empty()) return Json::array();
  Json list = value.is_string() ? parse_exact_json(value.get_ref<const std::string&>(), name) : value;
  require(list.is_array() || list.is_null(), "{}: expected a list, found {}", name, list.type_name());
  return list;
}

void read_tools(Members& line, Record& record) {
  const Json* functions = line.find("functions");
  if (const Json* tools = line.find("tools")) {
    require(!functions, "expected tools or functions, found both");
    record.tools = list_of(*tools, "tools");
  } else if (functions) {
    for (const Json& function : list_of(*functions, "functions"))
      record.tools.push_back({{"type", "function"}, {"function", function}});
  }
  if (record.tools.empty()) record.tools = nullptr;
  for (const char* key : {"tool_choice", "function_call"}) {
    const Json* choice = line.find(key);
    require(!choice || *choice == "auto", "{}: expected auto, found {}", key, choice ? choice->dump() : "");
  }
}

void read_system(Members& line, Record& record) {
  const std::string system = line.optional_text("system");
  if (system.empty()) return;
  std::vector<Message>& messages = record.content.messages;
  if (messages[0].role != "system")
    messages.insert(messages.begin(), {"system", system});
  else
    require(messages[0].content == system, "expected one system message, found \"system\" and another");
}

// LLaMA-Factory's joining: of the two the one that is there, or one per line.
std::string question(Members& line) {
  const std::string instruction = line.optional_text("instruction"), input = line.optional_text("input");
  require(!instruction.empty() || !input.empty(), "expected an instruction or an input, found both empty");
  return instruction + (instruction.empty() || input.empty() ? "" : "\n") + input;
}

void read_instruction(Members& line, Record& record) {
  std::vector<Message>& out = record.content.messages;
  if (const Json* history = line.find("history")) {
    require(history->is_array(), "history: expected a list, found {}", history->type_name());
    for (const Json& turn : *history) {
      require(turn.is_array() && turn.size() == 2, "history: expected pairs of strings, found {}",
              turn.dump());
      out.push_back({"user", text_of(turn[0], "history")});
      out.push_back({"assistant", text_of(turn[1], "history")});
    }
  }
  out.push_back({"user", question(line)});
}

std::string joined(const std::vector<std::string>& names) {
  return names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", "));
}

// What all forms but {"text"} share.
void read_rest(Members& line, Record& record) {
  agree(record);
  if (record.content.is_chat()) {
    read_system(line, record);
    read_tools(line, record);
  } else {
    line.refuse({"system", "tools", "functions"}, "expected a prompt of messages, found one of text");
  }
  if (record.kind == Record::Kind::completion)
    line.refuse({"label"}, "good and bad completions are not distinguished");
  line.refuse(
      {"images", "image", "videos", "video", "audios", "audio", "documents", "history", "weight", "reasoning",
       "reasoning_content", "thinking", "system_prompt", "chat_template", "chat_template_kwargs", "kto_tag"},
      "it is not understood");
}

Record read_record(Members& line, Ignored ignored) {
  using Kind = Record::Kind;
  Record record;
  const bool pair = line.has("chosen") && line.has("rejected");
  if (line.has("conversations") || line.has("messages")) {
    require(!line.has("conversations") || !line.has("messages"),
            "expected messages or conversations, found both (--ignore takes one of them)");
    record.kind = Kind::chat;
    const char* key = line.has("messages") ? "messages" : "conversations";
    record.content.messages = read_messages(*line.find(key), key, ignored);
  } else if (line.has("instruction") || (line.contains("instruction") && line.has("input"))) {
    record.kind = Kind::chat;
    read_instruction(line, record);
    if (!pair) record.content.messages.push_back({"assistant", line.text("output")});
  } else if (line.has("prompt") && (pair || line.has("completion"))) {
    record.kind = Kind::completion;
    record.content = content(line, "prompt", ignored);
    if (!pair) record.chosen = content(line, "completion", ignored);
  } else {
    require(line.has("text"),
            "expected one of text; messages; conversations; instruction and output; prompt and completion; "
            "prompt, chosen and rejected; found {}",
            joined(line.others()));
    record.content.text = line.text("text");
    return record;
  }
  if (pair) {
    record.kind = Kind::preference;
    record.chosen = content(line, "chosen", ignored);
    record.rejected = content(line, "rejected", ignored);
  }
  read_rest(line, record);
  return record;
}

}  // namespace

Record parse_record(std::string_view line, const std::vector<std::string>& ignored) {
  const Json value = parse_exact_json(line, "expected a JSON object on the line");
  require(value.is_object(), "expected a JSON object, found {}", value.type_name());
  Members members(value, "", ignored);
  Record record = read_record(members, ignored);
  record.others = members.others();
  return record;
}

}  // namespace wuneng
