// Messages of a chat, in the forms of OpenAI and ShareGPT.
//
//   {"role", "content"}                       role: system, developer, user, assistant, tool or function
//     content                                 a string, or a list of parts {"type": "text", "text"}
//     tool_calls | function_call              an assistant's; arguments are an object, or JSON in a string
//     reasoning_content                       an assistant's
//     weight                                  an assistant's: 0: no loss, 1
//     name, tool_call_id                      of a tool
//   {"from", "value"}                         from: system, human, user, gpt, assistant, function_call,
//                                             observation or tool
//
// Any other member that says something is an error (data/text/members.h).
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "data/text/exact_json.h"

namespace wuneng {

struct ToolCall {
  std::string name;
  Json arguments;  // an object
  std::string id = {};
};

struct Message {
  std::string role;  // system, user, assistant or tool
  std::string content;
  std::vector<ToolCall> tool_calls = {};      // an assistant's
  std::string tool_call_id = {};              // a tool's: of the call that it answers
  bool learnt = true;                         // an assistant's: whether it has a loss
  std::optional<std::string> reasoning = {};  // an assistant's: what it thought before the content
};

// `name` of the list in error messages: "messages".
std::vector<Message> read_messages(const Json& list, const std::string& name,
                                   const std::vector<std::string>& ignored);

// As chat templates take them (data/text/chat_template.h).
Json to_json(const std::vector<Message>& messages);

}  // namespace wuneng
