// Records of training text, parsed from any of the supported forms of a JSON line.
//
//   {"text"}                                          text
//   {"messages": [...], "system"?, "tools"?}          chat (data/text/message.h); OpenAI's older "functions"
//   {"conversations": [...], "system"?, "tools"?}     chat (ShareGPT)
//   {"instruction", "input"?, "output", "system"?, "history"?}         chat (LLaMA-Factory, Alpaca)
//   {"prompt", "completion"}                          completion; strings or lists of messages
//   {"prompt", "chosen", "rejected"}                  preference; strings or lists of messages
//   {"conversations" | "messages" | "instruction", "chosen", "rejected"}   preference (LLaMA-Factory)
//
// Other members that say how to read a record (images, a weight, ...) are an error, except in {"text"}.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "data/text/message.h"

namespace wuneng {

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
  std::vector<std::string> others;  // names of members that were not used: ids, sources, ...
};

// Parses one line. An Error names the member but not the file and line, which the caller adds. `ignored`:
// members, of all objects, that need not be understood.
Record parse_record(std::string_view line, const std::vector<std::string>& ignored = {});

}  // namespace wuneng
