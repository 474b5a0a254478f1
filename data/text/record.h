// Records of training text: every form of a line of JSON that the program knows, made into one.
//
//   {"text"}                                          text
//   {"messages": [{"role", "content"}], "tools"?}     chat
//   {"conversations": [{"from", "value"}], "system"?, "tools"?}        chat (ShareGPT)
//   {"instruction", "input"?, "output", "system"?, "history"?}         chat (LLaMA-Factory, Alpaca)
//   {"prompt", "completion"}                          completion; strings or lists of messages
//   {"prompt", "chosen", "rejected"}                  preference; strings or lists of messages
//   {"conversations" | "instruction", "chosen", "rejected"}            preference (LLaMA-Factory)
//
// Other members are ignored: data sets carry identifiers and scores.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace wuneng {

using Json = nlohmann::ordered_json;  // a chat template prints tools and arguments as they were written

struct ToolCall {
  std::string name;
  Json arguments;
};

struct Message {
  std::string role;  // system, user, assistant or tool
  std::string content;
  std::vector<ToolCall> tool_calls = {};  // an assistant's
};

// Text, or messages where there are any.
struct Content {
  std::string text;
  std::vector<Message> messages;
  bool is_chat() const { return !messages.empty(); }
};

struct Record {
  enum class Kind { text, chat, completion, preference };
  Kind kind = Kind::text;
  Content content;           // text and chat: all of it; else the prompt
  Content chosen, rejected;  // completion: `chosen` is the completion. Messages wherever the prompt has them
  Json tools;                // a list, or null
};

// One line. What is wrong with it is an Error that names the member, but not the file: that the caller knows.
Record parse_record(std::string_view line);

}  // namespace wuneng
