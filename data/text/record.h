// Records of training text, parsed from any of the supported forms of a JSON line.
//
//   {"text"}                                          text
//   {"messages": [{"role", "content"}], "tools"?}     chat
//   {"conversations": [{"from", "value"}], "system"?, "tools"?}        chat (ShareGPT)
//   {"instruction", "input"?, "output", "system"?, "history"?}         chat (LLaMA-Factory, Alpaca)
//   {"prompt", "completion"}                          completion; strings or lists of messages
//   {"prompt", "chosen", "rejected"}                  preference; strings or lists of messages
//   {"conversations" | "instruction", "chosen", "rejected"}            preference (LLaMA-Factory)
//
// Other members are ignored.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace wuneng {

using Json =
    nlohmann::ordered_json;  // ordered: chat templates print tools and arguments in their original order

struct ToolCall {
  std::string name;
  Json arguments;
};

struct Message {
  std::string role;  // system, user, assistant or tool
  std::string content;
  std::vector<ToolCall> tool_calls = {};  // an assistant's
};

// Text, or a list of messages.
struct Content {
  std::string text;
  std::vector<Message> messages;
  bool is_chat() const { return !messages.empty(); }
};

struct Record {
  enum class Kind { text, chat, completion, preference };
  Kind kind = Kind::text;
  Content content;           // text and chat: all of it; else the prompt
  Content chosen, rejected;  // completion: `chosen` is the completion. Messages if the prompt is messages
  Json tools;                // a list, or null
};

// Parses one line. An Error names the member but not the file and line, which the caller adds.
Record parse_record(std::string_view line);

}  // namespace wuneng
