// <|im_start|>role ... <|im_end|>: Qwen2.5, Qwen3, SmolLM2. Sources: chat_template of their
// tokenizer_config.json.
#include "data/text/chat_writer.h"
#include "data/text/python_json.h"
#include "runtime/error.h"

namespace wuneng {
namespace {

using Json = ChatWriter::Json;

constexpr std::string_view kChatMlTools =
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with "
    "function signatures within <tools></tools> XML tags:\n<tools>";
constexpr std::string_view kChatMlToolsEnd =
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": "
    "<args-json-object>}\n</tool_call><|im_end|>\n";
constexpr std::string_view kChatMlEnd = "<|im_end|>\n", kChatMlAssistant = "<|im_start|>assistant\n";

void add_chatml_tools(ChatWriter& chat) {
  std::string list;
  for (const Json& tool : chat.tools()) {
    list += '\n';
    append_python_json(tool, list);
  }
  chat.add(false, kChatMlTools, list, kChatMlToolsEnd);
}

// Calls follow each other, and content, by a line feed. verbatim: arguments in a string are JSON already.
std::string chatml_calls(const ChatWriter& chat, size_t i, bool behind_content, bool verbatim) {
  std::string text;
  for (const Json& entry : chat.calls(i)) {
    const Json& call = ChatWriter::function_of(entry);
    if (behind_content || !text.empty()) text += '\n';
    text += "<tool_call>\n{\"name\": \"" + call["name"].get_ref<const std::string&>() + "\", \"arguments\": ";
    if (verbatim && call["arguments"].is_string())
      text += call["arguments"].get_ref<const std::string&>();
    else
      append_python_json(call["arguments"], text);
    text += "}\n</tool_call>";
  }
  return text;
}

void add_chatml_turn(ChatWriter& chat, size_t i) {
  chat.add(false, "<|im_start|>", chat.role(i), "\n", chat.content(i), kChatMlEnd);
}

// An assistant's content, which calls may be instead of.
std::string answer_of(const ChatWriter& chat, size_t i) {
  return chat.has_content(i) || chat.calls(i).empty() ? chat.content(i) : "";
}

// A user's turn holds the results that follow each other.
void add_result(ChatWriter& chat, size_t i) {
  if (i == 0 || chat.role(i - 1) != "tool") chat.add(false, "<|im_start|>user");
  chat.add(false, "\n<tool_response>\n", chat.content(i), "\n</tool_response>");
  if (chat.role(i + 1) != "tool") chat.add(false, kChatMlEnd);
}

std::string_view without_first(std::string_view text, char c) {
  return text.substr(std::min(text.find_first_not_of(c), text.size()));
}
std::string_view without_last(std::string_view text, char c) {
  return text.substr(0, text.find_last_not_of(c) + 1);
}

// An assistant's text, content and calls, and of Qwen3 what it thought before.
struct Thought {
  std::string thought;
  std::string content;
};

// <think>THOUGHT</think>CONTENT, as Qwen3's template takes them apart.
Thought thought_of(ChatWriter& chat, size_t i) {
  const std::string text = answer_of(chat, i);
  constexpr std::string_view kBegin = "<think>", kEndOfThought = "</think>";
  if (const Json& reasoning = chat.reasoning(i); !reasoning.is_null()) return {reasoning, text};
  const size_t first = text.find(kEndOfThought);
  if (first == text.npos) return {"", text};
  const std::string_view all = text;
  std::string_view thought = without_last(all.substr(0, first), '\n');
  if (const size_t begin = thought.rfind(kBegin); begin != thought.npos)
    thought.remove_prefix(begin + kBegin.size());
  const std::string_view content = all.substr(all.rfind(kEndOfThought) + kEndOfThought.size());
  return {std::string(without_first(thought, '\n')), std::string(without_first(content, '\n'))};
}

void add_system(ChatWriter& chat) {
  const bool given = chat.role(0) == "system";
  if (!chat.tools().empty()) {
    chat.add(false, "<|im_start|>system\n");
    if (given) chat.add(false, chat.content(0), "\n\n");
    add_chatml_tools(chat);
  } else if (given) {
    add_chatml_turn(chat, 0);
  }
}

// The last user's message that is not a tool's result; behind it Qwen3's thoughts are kept.
size_t last_query(const ChatWriter& chat) {
  for (size_t i = chat.size(); i-- > 0;) {
    if (chat.role(i) != "user") continue;
    const std::string& text = chat.content(i);
    if (!(text.starts_with("<tool_response>") && text.ends_with("</tool_response>"))) return i;
  }
  return chat.size() - 1;
}

void add_answer(ChatWriter& chat, size_t i, std::string_view text, bool has_content) {
  chat.add(false, kChatMlAssistant);
  chat.add(chat.learnt(i), text, chatml_calls(chat, i, has_content, true), kChatMlEnd);
}

// Messages from `first` on. answer(i) adds an assistant's.
template <class Answer>
void add_turns(ChatWriter& chat, size_t first, const Answer& answer) {
  for (size_t i = first; i < chat.size(); ++i)
    if (chat.role(i) == "assistant")
      answer(i);
    else if (chat.role(i) == "tool")
      add_result(chat, i);
    else
      add_chatml_turn(chat, i);
}

}  // namespace

void render_qwen25(ChatWriter& chat, const char* default_system) {
  const bool given = chat.role(0) == "system";
  chat.add(false, "<|im_start|>system\n", given ? chat.content(0) : default_system);
  if (chat.tools().empty()) {
    chat.add(false, kChatMlEnd);
  } else {
    chat.add(false, "\n\n");
    add_chatml_tools(chat);
  }
  add_turns(chat, given, [&](size_t i) {
    const std::string text = answer_of(chat, i);
    // Without content, it is the calls' line feed that ends the header.
    chat.add(false, kChatMlAssistant);
    chat.add(chat.learnt(i), text, chatml_calls(chat, i, !text.empty(), false), kChatMlEnd);
  });
  if (chat.prompts()) chat.add(false, kChatMlAssistant);
}

void render_qwen3(ChatWriter& chat, const char*) {
  add_system(chat);
  const size_t query = last_query(chat);
  add_turns(chat, chat.role(0) == "system", [&](size_t i) {
    const auto [thought, content] = thought_of(chat, i);
    std::string text = content;
    if (i > query && (i + 1 == chat.size() || !thought.empty()))
      text = fmt::format("<think>\n{}\n</think>\n\n{}", without_first(without_last(thought, '\n'), '\n'),
                         without_first(content, '\n'));
    add_answer(chat, i, text, !content.empty());
  });
  const bool thinks = chat.enable_thinking().value_or(true);
  if (chat.prompts()) chat.add(false, kChatMlAssistant, thinks ? "" : "<think>\n\n</think>\n\n");
}

void render_qwen3_2507(ChatWriter& chat, const char*) {
  add_system(chat);
  add_turns(chat, chat.role(0) == "system", [&](size_t i) {
    const std::string text = answer_of(chat, i);
    add_answer(chat, i, text, !text.empty());
  });
  if (chat.prompts()) chat.add(false, kChatMlAssistant);
}

void render_smollm2(ChatWriter& chat, const char* default_system) {
  chat.refuse_tools();
  if (chat.role(0) != "system") chat.add(false, "<|im_start|>system\n", default_system, kChatMlEnd);
  for (size_t i = 0; i < chat.size(); ++i) {
    chat.refuse_calls(i);
    if (chat.role(i) == "assistant") {
      chat.add(false, kChatMlAssistant);
      chat.add(chat.learnt(i), chat.content(i), kChatMlEnd);
    } else {
      add_chatml_turn(chat, i);
    }
  }
  if (chat.prompts()) chat.add(false, kChatMlAssistant);
}

}  // namespace wuneng
