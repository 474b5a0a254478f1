// [INST] ... [/INST] of Mistral-Nemo-Instruct. Source: chat_template of its tokenizer_config.json.
#include "data/text/chat_writer.h"
#include "data/text/python_json.h"
#include "runtime/error.h"

namespace wuneng {
namespace {

using Json = ChatWriter::Json;

constexpr std::string_view kMistralBegin = "<s>", kMistralEnd = "</s>";
constexpr size_t kCallIdSize = 9;

const std::string& call_id_of(const Json& id, size_t i, const char* what) {
  require(id.is_string() && id.get_ref<const std::string&>().size() == kCallIdSize,
          "chat message {}: {}: expected {} letters and digits, as the chat template takes, found {}", i,
          what, kCallIdSize, id.dump());
  return id.get_ref<const std::string&>();
}

// Strings are written as they are, without escapes.
std::string mistral_tools(const ChatWriter& chat) {
  std::string out;
  for (const Json& tool : chat.tools()) {
    require(tool.is_object() && tool.contains("function") && tool["function"].is_object(),
            "chat tools: expected objects with a member function, found {}", tool.dump());
    std::string members;
    for (const auto& [key, value] : tool["function"].items()) {
      if (key == "return") continue;
      members += fmt::format("{}\"{}\": ", members.empty() ? "" : ", ", key);
      if (value.is_string())
        members += fmt::format("\"{}\"", value.get_ref<const std::string&>());
      else
        append_python_json(value, members);
    }
    out +=
        fmt::format("{}{{\"type\": \"function\", \"function\": {{{}}}}}", out.empty() ? "" : ", ", members);
  }
  return fmt::format("[AVAILABLE_TOOLS][{}][/AVAILABLE_TOOLS]", out);
}

std::string mistral_calls(const ChatWriter& chat, size_t i) {
  std::string out;
  for (const Json& call : chat.calls(i)) {
    std::string function;
    append_python_json(ChatWriter::function_of(call), function);
    function.pop_back();
    out += fmt::format("{}{}, \"id\": \"{}\"}}", out.empty() ? "" : ", ", function,
                       call_id_of(call.value("id", Json()), i, "tool_calls: id"));
  }
  return fmt::format("[TOOL_CALLS][{}]", out);
}

// User and assistant in turn, calls and results aside.
void check_mistral_turns(const ChatWriter& chat, size_t first) {
  bool user = true;
  for (size_t i = first; i < chat.size(); ++i) {
    if (chat.role(i) == "tool" || !chat.calls(i).empty()) continue;
    require(
        (chat.role(i) == "user") == user && chat.role(i) != "system",
        "chat message {}: role: expected {}, as user and assistant alternate in this chat template, found "
        "{}",
        i, user ? "user" : "assistant", chat.role(i));
    user = !user;
  }
}

}  // namespace

void render_mistral_nemo(ChatWriter& chat, const char*) {
  const bool system = chat.role(0) == "system";
  check_mistral_turns(chat, system);
  require(!system || chat.role(chat.size() - 1) == "user",
          "chat message 0: role: expected no system message, since the chat template shows it in the user's "
          "last message, and only where the chat ends with that, found a chat that ends with {}",
          chat.role(chat.size() - 1));
  size_t last_user = chat.size();
  for (size_t i = system; i < chat.size(); ++i)
    if (chat.role(i) == "user") last_user = i;
  chat.add(false, kMistralBegin);
  for (size_t i = system; i < chat.size(); ++i) {
    if (chat.role(i) == "user") {
      if (!chat.tools().empty() && chat.message(i) == chat.message(last_user))
        chat.add(false, mistral_tools(chat));
      chat.add(false, "[INST]");
      if (system && i + 1 == chat.size()) chat.add(false, chat.content(0), "\n\n");
      chat.add(false, chat.content(i), "[/INST]");
    } else if (!chat.calls(i).empty()) {
      require(!chat.has_content(i) || chat.content(i).empty(),
              "chat message {}: content: expected none beside tool_calls, where the chat template leaves it "
              "out, found \"{}\"",
              i, chat.content(i));
      chat.add(chat.learnt(i), mistral_calls(chat, i), kMistralEnd);
    } else if (chat.role(i) == "assistant") {
      chat.add(chat.learnt(i), chat.content(i), kMistralEnd);
    } else {
      chat.add(false, "[TOOL_RESULTS]{\"content\": ", chat.content(i), ", \"call_id\": \"",
               call_id_of(chat.member(i, "tool_call_id"), i, "tool_call_id"), "\"}[/TOOL_RESULTS]");
    }
  }
  // An answer follows [/INST] at once: there is nothing to add for a generation.
}

}  // namespace wuneng
