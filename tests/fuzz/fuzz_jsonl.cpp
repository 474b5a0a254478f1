// JSON lines of arbitrary bytes, plain or packed (ByteStream goes by the first bytes), read to the end with
// bad lines skipped. A chat that is taken must be one that can be written out again.
#include "data/text/text_source.h"
#include "tests/fuzz/fuzz.h"

using namespace wuneng;

namespace {

void use(const Record& record) {
  for (const Content* content : {&record.content, &record.chosen, &record.rejected})
    for (const Message& message : content->messages)
      for (const ToolCall& call : message.tool_calls)
        call.arguments.dump(-1, ' ', false, Json::error_handler_t::replace);
  const Json tools = record.tools;
  tools.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const fuzz::Directory directory;
  TextOptions options;
  options.paths = {directory.write("lines", {reinterpret_cast<const char*>(data), size})};
  options.longest = 1 << 16;
  options.on_bad = OnBadLine::skip;
  options.format = TextFormat::json_lines;
  fuzz::accepted(directory, [&] {
    TextSource source(options);
    for (Record record; source.next(record);) use(record);
    for (const std::string& line : source.bad_lines().first())
      if (line.find(options.paths[0] + " line ") == line.npos) std::abort();
  });
  return 0;
}
