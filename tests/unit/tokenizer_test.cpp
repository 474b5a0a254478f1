// The tokenizer against the ids of PyPI's `tokenizers` for the small vocabulary in tests/golden/tokenizer
// (make_tokenizer_golden.py), from both forms of the files; and unsupported files.
#include "data/tokenizer/tokenizer.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "data/tokenizer/utf8.h"
#include "runtime/error.h"
#include "runtime/file.h"
#include "tests/unit/golden.h"
#include "tests/unit/golden_texts.h"
#include "tests/unit/scratch_dir.h"

namespace wuneng::tokenizer_test {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

const std::string kGolden = golden("tokenizer");

class TokenizerTest : public ScratchTest {
 protected:
  // A directory with copies of some of the golden files.
  std::string copy(const std::string& name, std::initializer_list<const char*> files) const {
    fs::create_directories(path(name));
    for (const char* file : files) fs::copy_file(kGolden + "/" + file, path(name) + "/" + file);
    return path(name);
  }
  std::string both_files() const {
    return copy("separate", {"vocab.json", "merges.txt", "tokenizer_config.json"});
  }
  // The error of load() for tokenizer.json with one value (a JSON pointer) replaced.
  std::string refusal(const std::string& pointer, const nlohmann::json& value) const {
    auto json = nlohmann::json::parse(read_file(kGolden + "/tokenizer.json"));
    json[nlohmann::json::json_pointer(pointer)] = value;
    write("changed/tokenizer.json", json.dump());
    return error_of(path("changed"));
  }
  static std::string error_of(const std::string& directory) {
    try {
      Tokenizer::load(directory);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }
};

TEST_F(TokenizerTest, IdsAndTextsOfTheGoldenFile) {
  const auto rows = nlohmann::json::parse(read_file(kGolden + "/texts.json"));
  ASSERT_GT(rows.size(), 400u);
  for (const std::string& directory : {kGolden, both_files()}) {
    const Tokenizer tokenizer = Tokenizer::load(directory);
    for (const auto& row : rows) {
      const std::string text = from_hex(row[0]);
      auto ids = encode(tokenizer, text);
      ASSERT_EQ(ids, row[1].get<std::vector<int32_t>>()) << row[0];
      std::reverse(ids.begin(), ids.end());
      ASSERT_EQ(tokenizer.decode(ids), row[2].get<std::string>()) << row[0];
      ASSERT_EQ(tokenizer.decode(ids, true), row[3].get<std::string>()) << row[0];
    }
  }
}

TEST_F(TokenizerTest, BothFormsOfTheFilesAreOneTokenizer) {
  const Tokenizer whole = Tokenizer::load(kGolden), separate = Tokenizer::load(both_files());
  EXPECT_EQ(whole.fingerprint(), separate.fingerprint());
  EXPECT_EQ(whole.vocab_size(), separate.vocab_size());
  // Swapping two merges gives another fingerprint.
  auto json = nlohmann::json::parse(read_file(kGolden + "/tokenizer.json"));
  std::swap(json["model"]["merges"][3], json["model"]["merges"][4]);
  write("swapped/tokenizer.json", json.dump());
  EXPECT_NE(Tokenizer::load(path("swapped")).fingerprint(), whole.fingerprint());
}

TEST_F(TokenizerTest, TokensAndTheirBytes) {
  const Tokenizer tokenizer = Tokenizer::load(kGolden);
  const auto space = tokenizer.id_of("\u0120");  // 0x20 as vocabulary files write it
  ASSERT_TRUE(space.has_value());
  EXPECT_EQ(tokenizer.bytes_of(*space), " ");
  const auto end = tokenizer.id_of("<|im_end|>");
  ASSERT_TRUE(end.has_value());
  EXPECT_EQ(tokenizer.bytes_of(*end), "<|im_end|>");
  EXPECT_EQ(encode(tokenizer, "<|im_end|>"), std::vector<int32_t>{*end});
  EXPECT_FALSE(tokenizer.id_of("no such token"));
  for (const int32_t id : {-1, tokenizer.vocab_size(), tokenizer.vocab_size() + 1000}) {
    EXPECT_TRUE(tokenizer.bytes_of(id).empty());
    EXPECT_EQ(tokenizer.decode(std::vector{id}), "");
  }
}

TEST_F(TokenizerTest, LongWordsAndManyCallsGiveTheSameIds) {
  // Longer than kShort and than the cache: the same result as from the tokens of single bytes.
  const Tokenizer tokenizer = Tokenizer::load(kGolden);
  for (const size_t size : {31, 32, 33, 47, 48, 49, 50, 1000, 100000}) {
    std::string word;
    for (size_t i = 0; i < size; ++i) word += static_cast<char>('a' + i * i % 11);
    const auto ids = encode(tokenizer, word);
    EXPECT_EQ(tokenizer.decode(ids), word);
    EXPECT_EQ(encode(tokenizer, word), ids) << size;
  }
}

TEST_F(TokenizerTest, ThreadsMayCallAtOnce) {
  const Tokenizer tokenizer = Tokenizer::load(kGolden);
  const auto rows = nlohmann::json::parse(read_file(kGolden + "/texts.json"));
  std::vector<int> wrong(3);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < wrong.size(); ++t)
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < rows.size(); ++i) {
        const auto& row = rows[(i + t * 100) % rows.size()];
        wrong[t] += encode(tokenizer, from_hex(row[0])) != row[1].get<std::vector<int32_t>>();
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(3));
}

TEST(Utf8, BrokenPartsBecomeOneReplacementEach) {
  std::string buffer;
  const std::string r = "\ufffd";
  EXPECT_EQ(replace_invalid_utf8("plain and \u4f60", buffer), "plain and \u4f60");
  EXPECT_EQ(replace_invalid_utf8("\xe2\x82"
                                 "A",
                                 buffer),
            r + "A");
  EXPECT_EQ(replace_invalid_utf8("\xed\xa0\x80", buffer), r + r + r);
  EXPECT_EQ(replace_invalid_utf8("\xf0\x9f\x99", buffer), r);
  EXPECT_EQ(replace_invalid_utf8("\xc0\x80\xff", buffer), r + r + r);
}

TEST_F(TokenizerTest, OtherSchemesAreRefusedByTheKeyThatSaysSo) {
  EXPECT_THAT(refusal("/normalizer", {{"type", "NFKC"}}),
              AllOf(HasSubstr("changed/tokenizer.json: normalizer.type: expected"), HasSubstr("NFKC")));
  EXPECT_THAT(refusal("/model/type", "Unigram"), HasSubstr("model.type: expected \"BPE\""));
  EXPECT_THAT(refusal("/model/byte_fallback", true), HasSubstr("model.byte_fallback: expected"));
  EXPECT_THAT(refusal("/added_tokens/1/lstrip", 3), HasSubstr("added_tokens[1].lstrip: expected"));
  EXPECT_THAT(refusal("/truncation", {{"max_length", 5}}), HasSubstr("truncation: expected null"));
  EXPECT_THAT(refusal("/padding", {{"strategy", {{"Fixed", 5}}}}), HasSubstr("padding.strategy: expected"));
  EXPECT_EQ(refusal("/padding", {{"strategy", "BatchLongest"}, {"pad_id", 700}}), "no error");
  EXPECT_THAT(refusal("/something_new", 1), HasSubstr("something_new: expected no such key"));
  EXPECT_THAT(refusal("/decoder/type", "WordPiece"), HasSubstr("decoder.type: expected"));
}

TEST_F(TokenizerTest, DamagedFilesAreNamed) {
  EXPECT_THAT(refusal("/model/merges/0", "one"), HasSubstr("model.merges[0]: expected a merge"));
  EXPECT_THAT(refusal("/model/merges/0", {"a", "\u0120qqq"}), HasSubstr("(merge 0), found none"));
  EXPECT_THAT(refusal("/model/vocab/a", -1), HasSubstr("expected a token's id below 4194304, found -1"));
  EXPECT_THAT(refusal("/model/vocab/a", 0), HasSubstr("expected one token with id 0, found two"));
  EXPECT_THAT(refusal("/model/vocab/!", nullptr),
              HasSubstr("expected a token's id below 4194304, found null"));
  EXPECT_THAT(refusal("/added_tokens/0/content", ""), HasSubstr("expected a token of at least one byte"));
  EXPECT_THAT(refusal("/model/vocab/a", 2147483647), HasSubstr("below 4194304, found 2147483647"));
  write("broken/tokenizer.json", std::string(200000, '['));
  EXPECT_THAT(error_of(path("broken")), HasSubstr("broken/tokenizer.json: expected JSON nested at most 200"));
  write("broken/tokenizer.json", "{\"version\": ");
  EXPECT_THAT(error_of(path("broken")), HasSubstr("broken/tokenizer.json: expected JSON"));
  fs::create_directories(path("empty"));
  EXPECT_THAT(error_of(path("empty")), HasSubstr("empty: expected tokenizer.json or vocab.json, found"));
  copy("no_merges", {"vocab.json", "tokenizer_config.json"});
  EXPECT_THAT(error_of(path("no_merges")), HasSubstr("no_merges/merges.txt"));
}

}  // namespace
}  // namespace wuneng::tokenizer_test
