// Text and JSON lines as records; bad lines are named and counted; tokenizing preserves the order.
#include "data/text/text_source.h"

#include <gmock/gmock.h>

#include "data/batches/token_corpus.h"
#include "data/text/tokenize.h"
#include "runtime/error.h"
#include "runtime/threads.h"
#include "tests/unit/packed.h"
#include "tests/unit/scratch_dir.h"

namespace wuneng::text_source_test {
namespace {

using namespace std::string_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class TextSourceTest : public ScratchTest {
 protected:
  TextOptions options() const { return {.paths = {root_.string()}}; }
  static std::vector<std::string> texts(const TextOptions& options) {
    TextSource source(options);
    std::vector<std::string> out;
    for (Record record; source.next(record);) out.push_back(record.content.text);
    return out;
  }
};

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

TEST_F(TextSourceTest, TextInAnotherEncodingIsReadOrABadRecord) {
  write("a.txt", "caf\xe9\n");
  write("b.jsonl", "\xff\xfe{\0\"\0t\0e\0x\0t\0\"\0:\0\"\0\xe9\0\"\0}\0"s);
  EXPECT_THAT(
      [&] { texts(options()); },
      ThrowsMessage<Error>(HasSubstr(path("a.txt") + " document 1: expected UTF-8, found 0xe9 at byte 3")));
  TextOptions o = options();
  o.encoding = "latin1";
  EXPECT_THAT(texts(o), ElementsAre("caf\u00e9\n", "\u00e9"));
  o.encoding = "latin-eleven";
  EXPECT_THAT([&] { texts(o); }, ThrowsMessage<Error>(HasSubstr("latin-eleven")));
  // Far from the file's beginning, which is looked at before.
  write("a.txt", std::string(1 << 20, 'x') + '\0');
  EXPECT_THAT([&] { texts(options()); },
              ThrowsMessage<Error>(HasSubstr("document 1: expected text, found a NUL")));
  write("c.txt", std::string("\0", 1));
  EXPECT_THAT([&] { RawReader{options()}; },
              ThrowsMessage<Error>(HasSubstr("c.txt: expected text, found a NUL")));
}

TEST_F(TextSourceTest, WhatWasNotUsedIsSaid) {
  write("in/a.jsonl", "{\"text\": \"x\", \"id\": 3}\n{\"text\": \"y\", \"lang\": \"\", \"url\": \"u\"}\n");
  write("in/README.md", "about it");
  const TokenizeProgress done =
      tokenize_files({.text = {.paths = {path("in")}}, .prefixes = {path("out")}, .type = TokenType::u8},
                     RecordEncoder(TextCodec::bytes(), DataKind::text, {}), nullptr);
  EXPECT_THAT(done.others, ElementsAre("id", "url"));
  EXPECT_THAT(done.left_out, ElementsAre(path("in/README.md")));
  EXPECT_EQ(done.records, 2);
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
}  // namespace wuneng::text_source_test
