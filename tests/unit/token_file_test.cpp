// Token files: round trips in every type; every kind of damage to an index is an error; corpora over them
// split by document and preserve masks.
#include "data/token_files/token_file.h"

#include <gmock/gmock.h>

#include <cstring>
#include <set>

#include "data/batches/token_corpus.h"
#include "data/token_files/token_info.h"
#include "data/token_files/token_writer.h"
#include "runtime/error.h"
#include "tests/unit/scratch_dir.h"

namespace wuneng::token_file_test {
namespace {

using ::testing::HasSubstr;
using Document = std::vector<int32_t>;

class TokenFileTest : public ScratchTest {
 protected:
  void write_tokens(const std::string& name, const std::vector<Document>& documents,
                    TokenType type = TokenType::i32) const {
    std::filesystem::create_directories(std::filesystem::path(path(name)).parent_path());
    TokenWriter writer(path(name), type);
    for (const Document& d : documents) writer.add(d);
    writer.finish();
  }
  static Document read_document(const TokenFile& file, int64_t d) {
    const int64_t begin = file.document_begin(d);
    Document out(file.document_begin(d + 1) - begin);
    file.read(begin, static_cast<int64_t>(out.size()), int64_t{1} << 31, out.data());
    return out;
  }
  std::string error_of(const std::string& name) const {
    try {
      TokenFile::open(path(name));
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }
};

TEST_F(TokenFileTest, RoundTripInEveryType) {
  for (const auto& [type, most] : {std::pair{TokenType::u8, 255},
                                   {TokenType::i8, 127},
                                   {TokenType::i16, 32767},
                                   {TokenType::u16, 65535},
                                   {TokenType::i32, 2147483647},
                                   {TokenType::i64, 2147483647}}) {
    const std::vector<Document> documents = {{0, most, 5}, {}, {7}, {most, most - 1, 3, 2, 1}};
    write_tokens("t", documents, type);
    const TokenFile file = TokenFile::open(path("t"));
    EXPECT_EQ(file.type(), type);
    EXPECT_EQ(file.tokens(), 9);
    ASSERT_EQ(file.documents(), 4) << token_type_name(type);
    EXPECT_EQ(file.sequences(), 4);
    for (int64_t d = 0; d < 4; ++d) EXPECT_EQ(read_document(file, d), documents[d]) << token_type_name(type);
    if (type == TokenType::i32 || type == TokenType::i64) continue;
    TokenWriter narrow(path("narrow"), type);
    EXPECT_THROW(narrow.add(Document{most + 1}), Error) << token_type_name(type);
  }
}

TEST_F(TokenFileTest, NothingIsLeftOfAnUnfinishedFile) {
  write_tokens("t", {{1, 2, 3}});
  {
    TokenWriter writer(path("t"), TokenType::i32);
    writer.add(Document{9});
    EXPECT_EQ(TokenFile::open(path("t")).tokens(), 3);  // the old file exists until finish()
  }
  EXPECT_EQ(TokenFile::open(path("t")).tokens(), 3);
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(root_)) names.insert(entry.path().filename());
  EXPECT_EQ(names, (std::set<std::string>{"t.bin", "t.idx"}));
}

// Each field of a valid index overwritten in turn: 2 documents of 3 and 2 tokens of i32. Lengths are at 34,
// offsets at 42, documents at 58.
TEST_F(TokenFileTest, EveryBrokenFieldIsRefused) {
  write_tokens("good", {{1, 2, 3}, {4, 5}});
  const std::string idx = read("good.idx"), bin = read("good.bin");
  ASSERT_EQ(idx.size(), 82u);
  const auto refused = [&](const std::string& index, const std::string& tokens, const char* message) {
    write("bad.idx", index);
    write("bad.bin", tokens);
    EXPECT_THAT(error_of("bad"), HasSubstr(message));
  };
  const auto changed = [&](size_t at, auto value) {
    std::string copy = idx;
    std::memcpy(copy.data() + at, &value, sizeof value);
    return copy;
  };
  refused(idx, bin, "no error");
  refused("", bin, "bad.idx: expected at least the 34 bytes of a header, found 0");
  refused(idx.substr(0, 33), bin, "found 33");
  refused(changed(0, 'X'), bin, "begins with MMIDIDX");
  refused(changed(8, '1'), bin, "begins with MMIDIDX");
  refused(changed(9, uint64_t{2}), bin, "expected version 1, found 2");
  refused(changed(17, uint8_t{0}), bin, "found code 0");
  refused(changed(17, uint8_t{7}), bin, "found code 7, a floating-point type");
  refused(changed(17, uint8_t{9}), bin, "found code 9");
  refused(changed(17, uint8_t{8}), bin, "sequence 1: expected byte offset 6");  // u16 in place of i32
  refused(changed(18, uint64_t{3}), bin, "expected 60 bytes after the header, found 48");
  refused(changed(18, ~uint64_t{0}), bin, "expected more bytes after the header");
  refused(changed(18, uint64_t{1} << 62), bin, "expected more bytes after the header");
  refused(changed(26, uint64_t{2}), bin, "expected 40 bytes after the header, found 48");
  refused(changed(26, uint64_t{0}), bin, "0 entries of the document index");
  refused(idx.substr(0, 81), bin, "found 47");
  refused(idx + "x", bin, "found 49");
  refused(changed(34, int32_t{-1}), bin, "sequence 0: expected a length of at least 0, found -1");
  refused(changed(34, int32_t{4}), bin,
          "sequence 1: expected byte offset 16, where sequence 0 ends, found 12");
  refused(changed(38, int32_t{3}), bin,
          "bad.bin: expected the 24 bytes that 2 sequences of i32 take, found 20");
  refused(changed(42, int64_t{4}), bin, "sequence 0: expected byte offset 0, found 4");
  refused(changed(50, int64_t{-8}), bin,
          "sequence 1: expected byte offset 12, where sequence 0 ends, found -8");
  refused(changed(50, std::numeric_limits<int64_t>::min()), bin, "sequence 1: expected byte offset 12");
  refused(changed(58, int64_t{1}), bin, "found 1 and 2");
  refused(changed(66, int64_t{3}), bin, "document 2: expected to begin at sequence 3 or later, found 2");
  refused(changed(74, int64_t{1}), bin, "found 0 and 1");
  refused(idx, bin.substr(0, 19), "bad.bin: expected the 20 bytes that 2 sequences of i32 take, found 19");
  refused(idx, bin + "x", "found 21");
  std::filesystem::remove(path("bad.bin"));
  EXPECT_THAT(error_of("bad"), HasSubstr("bad.bin: cannot be opened"));
}

TEST_F(TokenFileTest, TokensBeyondTheVocabularyAreNamed) {
  write_tokens("t", {{1, 2}, {300, 4}});
  const TokenFile file = TokenFile::open(path("t"));
  std::vector<int32_t> out(4);
  EXPECT_NO_THROW(file.read(0, 4, 301, out.data()));
  try {
    file.read(1, 3, 300, out.data());
    FAIL() << "a token outside the vocabulary was accepted";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("t.bin: token 2: expected a number from 0 to 299, found 300"));
  }
  std::string bin = read("t.bin");
  bin[3] = '\x80';  // token 0 is negative now
  write("t.bin", bin);
  EXPECT_THROW(TokenFile::open(path("t")).read(0, 1, 300, out.data()), Error);
}

TEST_F(TokenFileTest, MaskMustHaveTheTokensShape) {
  MaskedTokenWriter writer(path("t"), TokenType::u16, true);
  writer.add(Document{1, 2, 3}, std::vector<uint8_t>{0, 1, 1});
  writer.add(Document{4, 5}, std::vector<uint8_t>{1, 0});
  writer.finish();
  const TokenFile file = TokenFile::open(path("t"));
  EXPECT_EQ(read_document(*TokenFile::open_mask(file), 0), (Document{0, 1, 1}));
  write_tokens("t_mask", {{0, 1}, {1, 0, 1}}, TokenType::u8);
  EXPECT_THROW(TokenFile::open_mask(file), Error);
  write_tokens("t_mask", {{0, 1, 1}}, TokenType::u8);
  EXPECT_THROW(TokenFile::open_mask(file), Error);
  write_tokens("t_mask", {{0, 1, 1}, {1, 0}}, TokenType::i32);
  EXPECT_THROW(TokenFile::open_mask(file), Error);
  MaskedTokenWriter plain(path("t"), TokenType::u16, false);  // an old mask is removed with the old tokens
  plain.add(Document{1, 2, 3}, {});
  plain.finish();
  EXPECT_FALSE(TokenFile::open_mask(TokenFile::open(path("t"))).has_value());
}

TEST_F(TokenFileTest, CorpusLaysDocumentsEndToEndWithTheirLabels) {
  write_tokens("b", {{10, 11}, {}, {12}});
  MaskedTokenWriter writer(path("a"), TokenType::u8, true);
  writer.add(Document{1, 2, 3, 4}, std::vector<uint8_t>{1, 0, 1, 1});
  writer.finish();
  const auto corpus = open_token_corpus({.paths = {root_.string()}, .vocab_size = 13, .held_out_every = 0});
  ASSERT_EQ(corpus->size(Split::train), 7);
  EXPECT_EQ(corpus->documents(Split::train), 3);  // an empty document is not counted
  EXPECT_EQ(corpus->document_begin(Split::train, 1), 4);
  const Sample all = corpus->read(Split::train, 0, 7);
  EXPECT_EQ(all.tokens, (Document{1, 2, 3, 4, 10, 11, 12}));
  EXPECT_EQ(all.labels, (Document{kNoLabel, 3, 4, kNoLabel, 11, kNoLabel, kNoLabel}));
  EXPECT_EQ(all.document_begin, (std::vector<int64_t>{0, 4, 6}));
  const Sample middle = corpus->read(Split::train, 1, 4);
  EXPECT_EQ(middle.labels, (Document{3, 4, kNoLabel, 11}));
  EXPECT_EQ(middle.document_begin, (std::vector<int64_t>{0, 3}));
  EXPECT_THROW(open_token_corpus({.paths = {path("b")}, .vocab_size = 12, .held_out_every = 0}), Error);
  EXPECT_THROW(open_token_corpus({.paths = {path("none")}, .vocab_size = 13}), Error);
}

// Without PREFIX.json, or with one that is not about them, all values are read; several processes read a
// share each.
TEST_F(TokenFileTest, ValuesAreCheckedWhenACorpusIsOpened) {
  Document tokens(100000, 7);
  tokens[70000] = 300;
  const auto error = [&](int32_t vocab, CheckShare share = {}) -> std::string {
    try {
      open_token_corpus({.paths = {path("t")}, .vocab_size = vocab, .held_out_every = 0, .share = share});
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  const std::string found = "t.bin: token 70000: expected a number from 0 to 299, found 300";
  for (const TokenType type : {TokenType::u16, TokenType::i16, TokenType::i32, TokenType::i64}) {
    write_tokens("t", {tokens}, type);
    EXPECT_THAT(error(300), HasSubstr(found));
    EXPECT_EQ(error(301), "no error");
    int named = 0;
    for (int rank = 0; rank < 7; ++rank) named += error(300, {rank, 7}).find(found) != std::string::npos;
    EXPECT_EQ(named, 1);
  }
  // Told by PREFIX.json, they are not read.
  write_token_info(path("t"), {"name", 300, "text", "", {}, 100000, 299});
  EXPECT_EQ(error(300), "no error");
  write_token_info(path("t"), {"name", 300, "text", "", {}, 99999, 299});
  EXPECT_THAT(error(300), HasSubstr(found));
  write_token_info(path("t"), {"name", 300, "text", "", {}, 100000, 300});
  EXPECT_THAT(error(300), HasSubstr(found));
  write_token_info(path("t"), {"name", 300, "text", "", {}, 100000, 299});
  const auto later = std::filesystem::last_write_time(path("t.json")) + std::chrono::seconds(1);
  std::filesystem::last_write_time(path("t.bin"), later);
  EXPECT_THAT(error(300), HasSubstr(found));
  // As earlier versions wrote it.
  write("t.json", R"({"tokenizer": "name", "vocab_size": 300, "kind": "text", "sources": []})");
  EXPECT_THAT(error(300), HasSubstr(found));
  write_tokens("t", {{1, 2, 3}});
  write_tokens("t_mask", {{0, 1, 2}}, TokenType::u8);
  EXPECT_THAT(error(300), HasSubstr("t_mask.bin: token 2: expected a number from 0 to 1, found 2"));
}

TEST_F(TokenFileTest, SplitIsByDocumentAndStaysWhenTheFileGrows) {
  std::vector<Document> documents;
  for (int32_t d = 0; d < 400; ++d) documents.push_back(Document(1 + d % 7, d));
  write_tokens("t", documents);
  const auto tokens = [](const Corpus& corpus, Split split) {
    const Document all = corpus.read(split, 0, corpus.size(split)).tokens;
    return std::set<int32_t>(all.begin(), all.end());
  };
  const auto open = [&](const char* name, uint64_t seed = 0) {
    return open_token_corpus({.paths = {path(name)}, .vocab_size = 1000, .held_out_every = 8, .seed = seed});
  };
  const auto held_out = tokens(*open("t"), Split::held_out), train = tokens(*open("t"), Split::train);
  EXPECT_NEAR(held_out.size(), 50, 25);
  EXPECT_EQ(held_out.size() + train.size(), 400u);  // no document is in both splits
  EXPECT_EQ(open("t")->size(Split::train) + open("t")->size(Split::held_out),
            TokenFile::open(path("t")).tokens());
  EXPECT_NE(tokens(*open("t", 1), Split::held_out), held_out);
  for (int32_t d = 400; d < 500; ++d) documents.push_back({d});
  write_tokens("more/t", documents);
  for (const int32_t d : tokens(*open("more/t"), Split::held_out)) EXPECT_TRUE(d >= 400 || held_out.count(d));
  EXPECT_NE(open("more/t")->fingerprint(), open("t")->fingerprint());
  documents.resize(400);
  documents[200][0] = 7;  // same lengths, another token
  write_tokens("other/t", documents);
  EXPECT_NE(open("other/t")->fingerprint(), open("t")->fingerprint());
}

}  // namespace
}  // namespace wuneng::token_file_test
