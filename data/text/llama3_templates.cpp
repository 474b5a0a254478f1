// <|start_header_id|>role<|end_header_id|> ... <|eot_id|>: Llama 3, 3.1 (and 3.3), 3.2. Sources:
// chat_template of their tokenizer_config.json.
#include <array>
#include <ctime>

#include "data/text/chat_writer.h"
#include "data/text/python_json.h"
#include "data/tokenizer/utf8.h"
#include "runtime/error.h"

namespace wuneng {
namespace {

using Json = ChatWriter::Json;

constexpr std::string_view kLlamaBegin = "<|begin_of_text|>", kLlamaEnd = "<|eot_id|>";

std::string llama_header(std::string_view role) {
  return fmt::format("<|start_header_id|>{}<|end_header_id|>\n\n", role);
}

// str.isspace() of Python.
bool is_python_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

// Jinja's trim.
std::string jinja_trim(const std::string& given) {
  std::string buffer;
  const std::string_view text = replace_invalid_utf8(given, buffer);
  size_t first = text.size(), last = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    if (is_python_space(next_utf8(text, at))) continue;
    first = std::min(first, begin);
    last = at;
  }
  return std::string(text.substr(first, last > first ? last - first : 0));
}

// strftime_now("%d %b %Y"), with English names as in Python's default locale.
std::string today() {
  static constexpr std::array kMonths = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                         "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const std::time_t now = std::time(nullptr);
  std::tm date{};
  require(localtime_r(&now, &date) != nullptr, "chat: expected today's date from the system, found none");
  return fmt::format("{:02} {} {}", date.tm_mday, kMonths.at(date.tm_mon), 1900 + date.tm_year);
}

void add_llama_turn(ChatWriter& chat, size_t i) {
  chat.add(false, llama_header(chat.role(i)));
  chat.add(chat.role(i) == "assistant" && chat.learnt(i), jinja_trim(chat.content(i)), kLlamaEnd);
}

// The first user's message shows the tools.
void add_llama_tools(ChatWriter& chat, size_t i) {
  require(chat.role(i) == "user",
          "chat message {}: role: expected user, whose first message shows the tools, found {}", i,
          i < chat.size() ? chat.role(i) : "no message");
  std::string list;
  for (const Json& tool : chat.tools()) {
    append_python_json(tool, list, 4);
    list += "\n\n";
  }
  chat.add(false, llama_header("user"),
           "Given the following functions, please respond with a JSON for a function call with its proper "
           "arguments that best answers the given prompt.\n\nRespond in the format {\"name\": function name, "
           "\"parameters\": dictionary of argument name and its value}.Do not use variables.\n\n",
           list, jinja_trim(chat.content(i)), kLlamaEnd);
}

void add_llama_call(ChatWriter& chat, size_t i) {
  const std::vector<Json> calls = chat.calls(i);
  require(calls.size() == 1,
          "chat message {}: tool_calls: expected one, as the chat template takes, found {}", i, calls.size());
  require(!chat.has_content(i) || chat.content(i).empty(),
          "chat message {}: content: expected none beside tool_calls, where the chat template leaves it out, "
          "found \"{}\"",
          i, chat.content(i));
  const Json& call = ChatWriter::function_of(calls[0]);
  std::string arguments;
  append_python_json(call["arguments"], arguments);
  chat.add(false, llama_header("assistant"));
  chat.add(chat.learnt(i), "{\"name\": \"", call["name"].get_ref<const std::string&>(),
           "\", \"parameters\": ", arguments, "}", kLlamaEnd);
}

void render_llama(ChatWriter& chat, const std::string& date) {
  const bool given = chat.role(0) == "system";
  chat.add(false, kLlamaBegin, llama_header("system"), chat.tools().empty() ? "" : "Environment: ipython\n",
           "Cutting Knowledge Date: December 2023\nToday Date: ", date, "\n\n",
           given ? jinja_trim(chat.content(0)) : "", kLlamaEnd);
  size_t i = given;
  if (!chat.tools().empty()) add_llama_tools(chat, i++);
  for (; i < chat.size(); ++i) {
    if (!chat.calls(i).empty()) {
      add_llama_call(chat, i);
    } else if (chat.role(i) == "tool") {
      std::string result;
      append_python_json(chat.content(i), result);
      chat.add(false, llama_header("ipython"), result, kLlamaEnd);
    } else {
      add_llama_turn(chat, i);
    }
  }
  if (chat.prompts()) chat.add(false, llama_header("assistant"));
}

}  // namespace

void render_llama3(ChatWriter& chat, const char*) {
  chat.refuse_tools();
  chat.add(false, kLlamaBegin);
  for (size_t i = 0; i < chat.size(); ++i) {
    chat.refuse_calls(i);
    add_llama_turn(chat, i);
  }
  if (chat.prompts()) chat.add(false, llama_header("assistant"));
}

void render_llama31(ChatWriter& chat, const char*) {
  render_llama(chat, chat.date_string().value_or("26 Jul 2024"));
}

void render_llama32(ChatWriter& chat, const char*) {
  const std::optional<std::string> date = chat.date_string();
  render_llama(chat, date ? *date : today());
}

}  // namespace wuneng
