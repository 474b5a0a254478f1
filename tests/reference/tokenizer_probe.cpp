// What the Python checks of the tokenizer drive: frames in, frames out, so that any bytes can pass.
//
// usage: tokenizer_probe DIRECTORY encode|around|decode|decode_skip|chat|chat=TEMPLATE
// around: with the tokens that the post-processor puts before and after a text.
// A frame is a 32-bit little-endian count and so much: bytes of text, or 32-bit ids. For chats the text is
// JSON
// {"messages", "tools", "add_generation_prompt"} and other options of templates, and the answer three frames:
// text, ids, mask (one byte an id), with the directory's own template or the one that is named.
#include <cstdio>
#include <cstring>
#include <iostream>
#include <nlohmann/json.hpp>

#include "data/text/chat_template.h"
#include "data/tokenizer/tokenizer.h"
#include "runtime/error.h"

namespace wuneng {
namespace {

template <class Container>
void write_frame(const Container& values) {
  const uint32_t count = static_cast<uint32_t>(values.size());
  std::fwrite(&count, sizeof count, 1, stdout);
  std::fwrite(values.data(), sizeof values[0], values.size(), stdout);
}

// The next frame of elements of T; false at the end.
template <class T>
bool read_frame(std::vector<T>& values) {
  uint32_t count;
  if (std::fread(&count, sizeof count, 1, stdin) != 1) return false;
  values.resize(count);
  require(std::fread(values.data(), sizeof(T), count, stdin) == count, "a frame of {} elements is cut short",
          count);
  return true;
}

void run(const std::string& directory, const std::string& what) {
  const Tokenizer tokenizer = Tokenizer::load(directory);
  if (what == "encode" || what == "around") {
    for (std::vector<char> text; read_frame(text);) {
      std::vector<int32_t> ids;
      if (what == "around") ids = tokenizer.before();
      tokenizer.encode({text.data(), text.size()}, ids);
      if (what == "around") ids.insert(ids.end(), tokenizer.after().begin(), tokenizer.after().end());
      write_frame(ids);
    }
  } else if (what == "decode" || what == "decode_skip") {
    for (std::vector<int32_t> ids; read_frame(ids);)
      write_frame(tokenizer.decode(ids, what == "decode_skip"));
  } else if (what == "chat" || what.starts_with("chat=")) {
    const ChatTemplate chat_template =
        what == "chat" ? ChatTemplate::load(directory) : ChatTemplate::named(what.substr(5));
    for (std::vector<char> text; read_frame(text);) {
      const auto chat = nlohmann::ordered_json::parse(text.begin(), text.end());
      const auto &messages = chat["messages"], &tools = chat["tools"];
      ChatOptions options{.add_generation_prompt = chat["add_generation_prompt"]};
      if (chat.contains("enable_thinking")) options.enable_thinking = chat["enable_thinking"].get<bool>();
      if (chat.contains("date_string")) options.date_string = chat["date_string"].get<std::string>();
      std::string rendered;
      for (const ChatSegment& segment : chat_template.render(messages, tools, options))
        rendered += segment.text;
      const EncodedChat encoded = encode_chat(tokenizer, chat_template, messages, tools, options);
      write_frame(rendered);
      write_frame(encoded.ids);
      write_frame(encoded.assistant);
    }
  } else {
    fail("unknown command {}", what);
  }
}

}  // namespace
}  // namespace wuneng

int main(int argc, char** argv) {
  try {
    wuneng::require(argc == 3,
                    "usage: tokenizer_probe DIRECTORY "
                    "encode|around|decode|decode_skip|chat|chat=TEMPLATE");
    wuneng::run(argv[1], argv[2]);
    return 0;
  } catch (const std::exception& e) {
    std::cerr << "tokenizer_probe: " << e.what() << "\n";
    return 1;
  }
}
