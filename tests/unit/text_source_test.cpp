// Text, JSON lines and compressed files as records; bad lines are named and counted; tokenizing preserves the
// order.
#include "data/text/text_source.h"

#include <gmock/gmock.h>
#include <zlib.h>
#include <zstd.h>

#include <set>

#include "data/batches/token_corpus.h"
#include "data/text/byte_stream.h"
#include "data/text/tokenize.h"
#include "runtime/error.h"
#include "runtime/threads.h"
#include "tests/unit/scratch_dir.h"

namespace wuneng {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string gzip(const std::string& text) {
  z_stream z{};
  EXPECT_EQ(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&z, text.size()) + 64, '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  z.avail_in = static_cast<uInt>(text.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

// With a checksum, as the zstd program writes it.
std::string zstd(const std::string& text) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress2(context, out.data(), out.size(), text.data(), text.size()));
  ZSTD_freeCCtx(context);
  return out;
}

// Compresses well in some places and not in others.
std::string long_text(int64_t bytes) {
  std::string text;
  uint64_t x = 1;
  while (static_cast<int64_t>(text.size()) < bytes) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    text += x >> 63 ? std::string((x >> 40) % 300, 'a' + char(x >> 33) % 26) : std::to_string(x) + "\n";
  }
  return text;
}

class TextSourceTest : public ScratchTest {
 protected:
  std::string unpacked(const std::string& name, int64_t piece) const {
    const auto stream = ByteStream::open(path(name));
    std::string out, buffer(piece, '\0');
    while (const int64_t got = stream->read(buffer.data(), piece)) out.append(buffer, 0, got);
    EXPECT_EQ(stream->consumed(), static_cast<int64_t>(std::filesystem::file_size(path(name))));
    return out;
  }
  TextOptions options() const { return {.paths = {root_.string()}}; }
  static std::vector<std::string> texts(const TextOptions& options) {
    TextSource source(options);
    std::vector<std::string> out;
    for (Record record; source.next(record);) out.push_back(record.content.text);
    return out;
  }
};

TEST_F(TextSourceTest, PackedFilesReadAsPlainOnes) {
  const std::string text = long_text(1 << 20);
  const std::string half = text.substr(0, text.size() / 2), rest = text.substr(half.size());
  write("plain.txt", text);
  write("one.gz", gzip(text));
  write("two.gz", gzip(half) + gzip("") + gzip(rest));
  write("one.zst", zstd(text));
  write("two.zst", zstd(half) + zstd("") + zstd(rest));
  write("named_otherwise.txt", gzip(text));
  for (const char* name : {"plain.txt", "one.gz", "two.gz", "one.zst", "two.zst", "named_otherwise.txt"})
    for (const int64_t piece : {777, 1 << 20, 3 << 20}) EXPECT_TRUE(unpacked(name, piece) == text) << name;
}

TEST_F(TextSourceTest, DamagedPackedFilesAreErrors) {
  const std::string text = long_text(1 << 20);
  for (const auto& [name, packed] : {std::pair{"a.gz", gzip(text)}, {"a.zst", zstd(text)}}) {
    for (const size_t left : {packed.size() - 1, packed.size() / 2, size_t{20}}) {
      write(name, packed.substr(0, left));
      EXPECT_THROW(unpacked(name, 1000), Error) << name << " cut to " << left;
    }
    std::string changed = packed;
    for (size_t i = 0; i < 50; ++i) changed[changed.size() / 2 + i] ^= 0x55;
    write(name, changed);
    EXPECT_THROW(unpacked(name, 1000), Error) << name;
    write(name, packed + "garbage after the end");
    EXPECT_THROW(unpacked(name, 1000), Error) << name;
    write(name, "plain text");
    EXPECT_THROW(unpacked(name, 1000), Error) << name;
    write(name, "");
    EXPECT_THROW(unpacked(name, 1000), Error) << name;
  }
}

// Records do not depend on whether separators are at the boundaries of the pieces that are read.
TEST_F(TextSourceTest, LinesAndDocumentsOfAnyLength) {
  std::vector<std::string> expected;
  std::string lines, documents;
  for (const int64_t bytes : {1, 262142, 262143, 262144, 262145, 5, 700000, 3}) {
    expected.push_back(std::string(bytes, 'x') + std::to_string(expected.size()));
    lines += "{\"text\": \"" + expected.back() + "\"}\r\n\n";
    documents += expected.back() + "<|end|>" + (expected.size() % 2 ? "" : "<|end|>");
  }
  write("a.jsonl.zst", zstd(lines));
  EXPECT_EQ(texts(options()), expected);
  std::filesystem::remove(path("a.jsonl.zst"));
  write("a.txt", "\xef\xbb\xbf" + documents);
  TextOptions o = options();
  o.separator = "<|end|>";
  EXPECT_EQ(texts(o), expected);
  o.separator = "";
  EXPECT_EQ(texts(o), (std::vector<std::string>{documents}));
  write("b.txt", " \n");
  write("c.txt", "");
  write("d.txt", "<|en<|end|");  // prefixes of a separator are text
  o.separator = "<|end|>";
  expected.push_back("<|en<|end|");
  EXPECT_EQ(texts(o), expected);
}

TEST_F(TextSourceTest, BadLinesAreNamedAndCountedOrStop) {
  write("a.jsonl", "{\"text\": \"1\"}\n{\"text\": 2}\n\n{\"text\": \"3\"\n[1]\n" + std::string(101, ' ') +
                       "\n{\"text\": \"caf\xe9\"}\n{\"body\": 1, \"id\": 2}\n{\"text\": \"last\"}");
  TextOptions o = options();
  o.on_bad = OnBadLine::skip;
  o.longest = 100;
  TextSource source(o);
  std::vector<std::string> good;
  for (Record record; source.next(record);) good.push_back(record.content.text);
  EXPECT_THAT(good, ElementsAre("1", "last"));
  EXPECT_EQ(source.bad_lines().count(), 6);
  const std::string file = path("a.jsonl");
  EXPECT_THAT(
      source.bad_lines().first(),
      ElementsAre(HasSubstr(file + " line 2: text: expected a string, found number"),
                  HasSubstr(file + " line 4: expected a JSON object on the line"),
                  HasSubstr(file + " line 5: expected a JSON object, found array"),
                  HasSubstr(file + " line 6: expected at most 100 bytes"), HasSubstr(file + " line 7"),
                  HasSubstr("line 8: expected one of text; messages; conversations; instruction and output; "
                            "prompt and completion; prompt, chosen and rejected; found body, id")));
  o.on_bad = OnBadLine::stop;
  try {
    texts(o);
    FAIL() << "a bad line was not reported";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr(file + " line 2: text"));
  }
}

std::string show(const Content& content) {
  if (!content.is_chat()) return "'" + content.text + "'";
  std::string out;
  for (const Message& m : content.messages) {
    out += (out.empty() ? "" : " | ") + m.role + ": " + m.content;
    for (const ToolCall& call : m.tool_calls) out += "<" + call.name + " " + call.arguments.dump() + ">";
  }
  return out;
}

std::string show(const std::string& line) {
  const Record r = parse_record(line);
  std::string out = show(r.content);
  if (r.kind == Record::Kind::text) out = "text " + out;
  if (r.kind == Record::Kind::completion) out += " => " + show(r.chosen);
  if (r.kind == Record::Kind::preference) out += " => " + show(r.chosen) + " over " + show(r.rejected);
  return r.tools.is_null() ? out : out + " tools " + r.tools.dump();
}

TEST(RecordTest, EveryFormBecomesOneKindOfRecord) {
  EXPECT_EQ(show(R"({"text": "a\nb", "id": 7})"), "text 'a\nb'");
  EXPECT_EQ(
      show(R"({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]})"),
      "user: q | assistant: a");
  EXPECT_EQ(show(
                R"({"messages": [
            {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]},
            {"role": "assistant", "content": null, "tool_calls": [{"type": "function", "function":
              {"name": "f", "arguments": "{\"z\": 1, \"a\": 2}"}}]}, {"role": "tool", "content": "3"}],
            "tools": [{"z": 1, "a": 2}]})"),
            R"(user: xy | assistant: <f {"z":1,"a":2}> | tool: 3 tools [{"z":1,"a":2}])");
  EXPECT_EQ(show(R"({"prompt": "p", "completion": "c"})"), "'p' => 'c'");
  EXPECT_EQ(show(
                R"({"prompt": [{"role": "user", "content": "p"}],
            "completion": [{"role": "assistant", "content": "c"}]})"),
            "user: p => assistant: c");
  EXPECT_EQ(show(R"({"prompt": "p", "chosen": "good", "rejected": "bad"})"), "'p' => 'good' over 'bad'");
  EXPECT_EQ(show(R"({"prompt": "p", "chosen": [{"role": "assistant", "content": "g"}], "rejected": "b"})"),
            "user: p => assistant: g over assistant: b");
  EXPECT_EQ(show(R"({"instruction": "i", "input": "", "output": "o"})"), "user: i | assistant: o");
  EXPECT_EQ(
      show(R"({"instruction": "i", "input": "n", "output": "o", "system": "s", "history": [["q", "a"]]})"),
      "system: s | user: q | assistant: a | user: i\nn | assistant: o");
  EXPECT_EQ(show(R"({"instruction": "i", "chosen": "g", "rejected": "b"})"),
            "user: i => assistant: g over assistant: b");
  EXPECT_EQ(show(R"({"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value":
                    "{\"name\": \"f\", \"arguments\": {}}"}, {"from": "observation", "value": "r"},
                    {"from": "gpt", "value": "a"}],
                    "system": "s", "tools": "[{\"name\": \"f\"}]"})"),
            R"(system: s | user: q | assistant: <f {}> | tool: r | assistant: a tools [{"name":"f"}])");
  EXPECT_EQ(
      show(R"({"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "g"},
                    "rejected": {"from": "gpt", "value": "b"}})"),
      "user: q => assistant: g over assistant: b");
}

TEST(RecordTest, WhatIsWrongIsNamed) {
  const auto error = [](const std::string& line) -> std::string {
    try {
      parse_record(line);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  EXPECT_THAT(error(R"({"messages": []})"),
              HasSubstr("messages: expected a list of messages, found an empty one"));
  EXPECT_THAT(error(R"({"messages": "x"})"),
              HasSubstr("messages: expected a list of messages, found string"));
  EXPECT_THAT(error(R"({"messages": [{"role": "user", "content": "q"}, {"content": "q"}]})"),
              HasSubstr("messages[1]: expected a member \"role\""));
  EXPECT_THAT(error(R"({"messages": [{"role": "human", "content": "q"}]})"), HasSubstr("found human"));
  EXPECT_THAT(error(R"({"messages": [{"role": "user"}]})"),
              HasSubstr("messages[0]: expected a member \"content\""));
  EXPECT_THAT(error(R"({"messages": [{"role": "user", "content": [{"type": "image"}]}]})"),
              HasSubstr("found image"));
  EXPECT_THAT(error(R"({"messages": [{"role": "user", "content": "q"}], "tools": {"a": 1}})"),
              HasSubstr("tools: expected a list"));
  EXPECT_THAT(error(R"({"conversations": [{"from": "robot", "value": "q"}]})"), HasSubstr("found robot"));
  EXPECT_THAT(error(R"({"conversations": [{"from": "function_call", "value": "f("
}]
})"),
              HasSubstr("expected JSON in the string"));
  EXPECT_THAT(error(R"({"messages": [{"role": "user", "content": [{"type": 1, "text": "x"}]}]})"),
              HasSubstr("expected parts of type \"text\", found number"));
  const std::string deep = std::string(200000, '[') + std::string(200000, ']');
  EXPECT_THAT(error(R"({"text": "x", "tools": )" + deep + "}"), HasSubstr("nested at most 200 deep"));
  EXPECT_THAT(error(R"({"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": ")" +
                    deep + R"("}]}]})"),
              HasSubstr("tool_calls.arguments: expected JSON nested at most 200 deep"));
  EXPECT_THAT(error(R"({"instruction": "i"})"), HasSubstr("expected a member \"output\""));
  EXPECT_THAT(error(R"({"prompt": "p"})"), HasSubstr("found prompt"));
  EXPECT_THAT(error(R"({"prompt": 1, "completion": "c"})"),
              HasSubstr("prompt: expected a list of messages, found number"));
  EXPECT_THAT(error(R"({"instruction": "i", "output": "o", "history": [["q"]]})"),
              HasSubstr("history: expected pairs"));
  EXPECT_THAT(error("3"), HasSubstr("expected a JSON object, found number"));
}

TEST_F(TextSourceTest, TokenizedDocumentsKeepTheInputsOrder) {
  std::string lines[2], expected;
  int64_t bad = 0;
  for (int i = 0; i < 3000; ++i) {
    const std::string text = std::string(i % 97 * (i % 5), 'a' + char(i % 26)) + std::to_string(i);
    if (i % 500 == 99) lines[i / 1500] += "not JSON\n", ++bad;
    lines[i / 1500] += "{\"text\": \"" + text + "\"}\n";
    expected += text + '\0';
    if (i % 100 == 0) lines[i / 1500] += "{\"text\": \"\"}\n";
  }
  write("in/1.jsonl", lines[0]);
  write("in/2.jsonl.gz", gzip(lines[1]));
  const RecordEncoder text_encoder(TextCodec::bytes(), DataKind::text, 0);
  for (const int threads : {1, 3}) {
    set_thread_count(threads);
    for (const int64_t batch : {1, 5000, 1 << 22}) {
      int64_t reports = 0, last = 0;
      const TokenizeProgress done =
          tokenize_files({.text = {.paths = {path("in")}, .on_bad = OnBadLine::skip},
                          .prefixes = {path("out")},
                          .type = TokenType::u8,
                          .batch = batch},
                         text_encoder, [&](const TokenizeProgress& p) {
                           ++reports;
                           EXPECT_GE(p.records, last);
                           last = p.records;
                         });
      EXPECT_GT(reports, 0);
      EXPECT_EQ(done.records, 3000);
      EXPECT_EQ(done.empty, 30);
      EXPECT_EQ(done.bad_lines, bad);
      EXPECT_THAT(done.first_bad[0], HasSubstr("1.jsonl line 101: "));  // one empty record before it
      EXPECT_EQ(done.bytes_read, done.bytes_total);
      EXPECT_EQ(done.tokens, static_cast<int64_t>(expected.size()));
      EXPECT_TRUE(read("out.bin") == expected) << threads << " threads, batches of " << batch;
      EXPECT_EQ(TokenFile::open(path("out")).documents(), 3000);
    }
  }
}

}  // namespace
}  // namespace wuneng
