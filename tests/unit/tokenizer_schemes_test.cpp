// Tokenizers of other schemes than Qwen2.5's against the ids of PyPI's `tokenizers` for the small
// vocabularies in tests/golden/tokenizer_schemes (make_tokenizer_golden.py), and schemes that are refused.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "data/text/record_encoder.h"
#include "data/tokenizer/split_pattern.h"
#include "data/tokenizer/text_stream.h"
#include "data/tokenizer/tokenizer.h"
#include "runtime/file.h"
#include "tests/error_of.h"
#include "tests/unit/golden.h"
#include "tests/unit/golden_texts.h"
#include "tests/unit/scratch_dir.h"

namespace wuneng::tokenizer_schemes_test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using Json = nlohmann::json;

std::string golden_scheme(const std::string& name) { return golden("tokenizer_schemes") + "/" + name; }

class TokenizerScheme : public ::testing::TestWithParam<const char*> {
 protected:
  const Tokenizer tokenizer_ = Tokenizer::load(golden_scheme(GetParam()));
  const Json golden_ = Json::parse(read_file(golden_scheme(GetParam()) + "/texts.json"));
};

TEST_P(TokenizerScheme, IdsAndTextsOfTheGoldenFile) {
  EXPECT_EQ(tokenizer_.before(), golden_["before"].get<std::vector<int32_t>>());
  EXPECT_EQ(tokenizer_.after(), golden_["after"].get<std::vector<int32_t>>());
  ASSERT_GT(golden_["texts"].size(), 80u);
  for (const Json& row : golden_["texts"]) {
    std::vector<int32_t> ids = encode(tokenizer_, from_hex(row[0]));
    ASSERT_EQ(ids, row[1].get<std::vector<int32_t>>()) << row[0];
    std::reverse(ids.begin(), ids.end());
    ASSERT_EQ(tokenizer_.decode(ids), row[2].get<std::string>()) << row[0];
    TextStream stream;
    std::string text;
    for (const int32_t id : ids) text += stream.push(tokenizer_.bytes_of(id));
    ASSERT_EQ(text + stream.finish(), row[2].get<std::string>()) << row[0];
  }
}

// A text in three parts has the ids of the whole one, and a token is marked where one of its bytes is. Bytes
// say which it is where tokens have the text's bytes: no NFC, no added space.
TEST_P(TokenizerScheme, MarkedPartsOfATextDoNotChangeItsIds) {
  int compared = 0;
  for (const Json& row : golden_["texts"]) {
    const std::string text = from_hex(row[0]);
    for (size_t begin = 0; begin <= text.size(); begin += 3) {
      const size_t end = std::min(begin + 5, text.size());
      const auto starts = [&](size_t at) {
        return at == text.size() || (static_cast<uint8_t>(text[at]) & 0xc0) != 0x80;
      };
      if (!starts(begin) || !starts(end)) continue;
      const std::string_view all = text;
      const MarkedText parts[] = {
          {all.substr(0, begin), false}, {all.substr(begin, end - begin), true}, {all.substr(end), false}};
      std::vector<int32_t> ids;
      std::vector<uint8_t> marked, expected;
      tokenizer_.encode_marked(parts, ids, marked);
      ASSERT_EQ(ids, row[1].get<std::vector<int32_t>>()) << row[0] << " " << begin;
      ASSERT_EQ(marked.size(), ids.size());
      size_t at = 0;
      std::string whole;
      for (const int32_t id : ids) {
        const size_t from = at;
        whole += tokenizer_.bytes_of(id);
        at = whole.size();
        expected.push_back(from < end && at > begin);
      }
      if (whole != text) continue;
      ASSERT_EQ(marked, expected) << row[0] << " " << begin;
      ++compared;
    }
  }
  EXPECT_GT(compared, 10);
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerScheme,
                         ::testing::Values("gpt2", "gpt2_prefix", "llama3", "qwen3", "smollm2", "neox",
                                           "tekken", "deepseek3", "literal"),
                         [](const auto& info) { return std::string(info.param); });

class TokenizerSchemes : public ScratchTest {
 protected:
  // A directory with a scheme's tokenizer.json, with one value (a JSON pointer) replaced.
  std::string changed(const char* name, const std::string& pointer, const Json& value) const {
    auto json = Json::parse(read_file(golden_scheme(name) + "/tokenizer.json"));
    json[Json::json_pointer(pointer)] = value;
    write("changed/tokenizer.json", json.dump());
    return path("changed");
  }
  std::string refusal(const std::string& pointer, const Json& value, const char* name = "llama3") const {
    return error_of([&] { Tokenizer::load(changed(name, pointer, value)); });
  }
};

TEST_F(TokenizerSchemes, KindsThatAreNotUnderstoodAreRefusedByKeyAndName) {
  EXPECT_THAT(refusal("/normalizer", {{"type", "Lowercase"}}),
              HasSubstr("changed/tokenizer.json: normalizer.type: expected \"NFC\" or \"Sequence\", found "
                        "\"Lowercase\""));
  EXPECT_THAT(refusal("/normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "Prepend"}}}}}),
              AllOf(HasSubstr("normalizer.normalizers[0].type: expected"), HasSubstr("\"Prepend\"")));
  EXPECT_THAT(refusal("/pre_tokenizer/type", "Metaspace"),
              AllOf(HasSubstr("pre_tokenizer.type: expected"), HasSubstr("\"Metaspace\"")));
  EXPECT_THAT(refusal("/pre_tokenizer", nullptr), HasSubstr("pre_tokenizer"));
  EXPECT_THAT(refusal("/pre_tokenizer/pretokenizers/0", {{"type", "Punctuation"}, {"behavior", "Isolated"}}),
              AllOf(HasSubstr("pre_tokenizer.pretokenizers[0].type: expected"), HasSubstr("Punctuation")));
  EXPECT_THAT(refusal("/pre_tokenizer/pretokenizers/0/behavior", "Removed"),
              HasSubstr("pre_tokenizer.pretokenizers[0].behavior: expected \"Isolated\", found \"Removed\""));
  EXPECT_THAT(refusal("/pre_tokenizer/pretokenizers/0/invert", true), HasSubstr("[0].invert: expected"));
  EXPECT_THAT(refusal("/pre_tokenizer/pretokenizers/1", {{"type", "Digits"}, {"individual_digits", true}}),
              HasSubstr("pre_tokenizer: expected ByteLevel, alone or at the end of a Sequence"));
  EXPECT_THAT(refusal("/pre_tokenizer/pretokenizers/2", {{"type", "Digits"}}),
              HasSubstr("pre_tokenizer.pretokenizers[2]: expected no step after ByteLevel"));
  EXPECT_THAT(refusal("/post_processor/processors/0", {{"type", "RobertaProcessing"}}),
              AllOf(HasSubstr("post_processor.processors[0].type: expected"), HasSubstr("Roberta")));
  EXPECT_THAT(refusal("/post_processor/processors/1/single/1/Sequence/id", "B"),
              HasSubstr("single[1].Sequence.id: expected \"A\""));
  EXPECT_THAT(refusal("/post_processor/processors/1/single", Json::array()),
              HasSubstr("post_processor.processors[1].single: expected the text"));
  EXPECT_THAT(refusal("/decoder", {{"type", "Sequence"}}), HasSubstr("decoder.type: expected \"ByteLevel\""));
  EXPECT_THAT(refusal("/model/byte_fallback", true), HasSubstr("model.byte_fallback: expected"));
  EXPECT_THAT(refusal("/model/continuing_subword_prefix", "##"),
              HasSubstr("model.continuing_subword_prefix: expected"));
}

TEST_F(TokenizerSchemes, PatternsThatAreNotUnderstoodAreNamed) {
  const auto pattern = [&](const char* regex) {
    return refusal("/pre_tokenizer/pretokenizers/0/pattern", {{"Regex", regex}});
  };
  for (const char* regex :
       {".+",           "^a",           "a$",           "\\bword",   "(?<name>a)", "(?x:a)", "\\p{Han}+",
        "[[:alpha:]]+", "[a-z&&[^b]]+", "(a",           "a)",        "[a",         "a{,3}",  "a{2}{3}",
        "\\1",          "\\x41",        "(?i:strasse)", "(?i:k\\s)", "[^\\P{L}]",  "*a",     ""})
    EXPECT_THAT(pattern(regex), AllOf(HasSubstr("changed/tokenizer.json: pre_tokenizer"),
                                      HasSubstr("expected a"), HasSubstr(regex)))
        << regex;
  EXPECT_THAT(pattern("a*"), HasSubstr("expected a pattern that matches at least one character"));
  EXPECT_THAT(error_of([] { pcre2_pattern(std::string(60, '('), "f"); }),
              StartsWith("f: expected a pattern"));
  EXPECT_EQ(pattern("[^a-z\\]\\u00e9]++|(?>\\t?)b{1,3}|(?=c)\\x{263a}"), "no error");
}

// What a step does not match is a word of its own, and so is what lies before a match.
TEST_F(TokenizerSchemes, TextBetweenMatchesIsAWord) {
  const Tokenizer tokenizer =
      Tokenizer::load(changed("llama3", "/pre_tokenizer/pretokenizers/0/pattern", {{"String", "e"}}));
  const auto id = [&](const char* token) { return tokenizer.id_of(token).value(); };
  ASSERT_EQ(encode(Tokenizer::load(golden_scheme("llama3")), "he"), std::vector<int32_t>{id("he")});
  EXPECT_EQ(encode(tokenizer, "he"), (std::vector<int32_t>{id("h"), id("e")}));
}

// Llama 3 begins every text with a token, which ends one has another name, and a turn ends with a third.
TEST_F(TokenizerSchemes, DocumentsHaveTheTokensAroundATextOfTheirTokenizer) {
  const std::string directory = golden_scheme("llama3");
  const TextCodec codec = TextCodec::load(directory);
  const int32_t begin = codec.id_of("<|begin_of_text|>").value(),
                end = codec.id_of("<|end_of_text|>").value();
  EXPECT_EQ(codec.end_of_text(), end);
  EXPECT_TRUE(codec.ends(end) && codec.ends(codec.id_of("<|eot_id|>").value()) && !codec.ends(begin));
  std::vector<int32_t> text;
  codec.encode("ab", text);
  std::vector<int32_t> whole = text;
  whole.insert(whole.begin(), begin);
  EXPECT_EQ(codec.encode_whole("ab"), whole);

  whole.push_back(end);
  const RecordEncoder encoder(codec, DataKind::text, codec.end_of_text());
  EXPECT_EQ(encoder.encode(parse_record(R"({"text": "ab"})"))[0].ids, whole);
  EXPECT_TRUE(encoder.encode(parse_record(R"({"text": ""})"))[0].ids.empty());
  const Tokens answer = RecordEncoder(codec, DataKind::supervised, codec.end_of_text())
                            .encode(parse_record(R"({"prompt": "ab", "completion": "ab"})"))[0];
  ASSERT_EQ(answer.ids.size(), 2 * text.size() + 2);
  EXPECT_EQ(answer.ids[0], begin);
  EXPECT_EQ(std::count(answer.loss_mask.begin(), answer.loss_mask.end(), 1), std::ssize(text) + 1);
  EXPECT_EQ(answer.loss_mask.back(), 1);
}

TEST_F(TokenizerSchemes, TheEosTokenEndsDocumentsWithoutAnotherOne) {
  std::filesystem::copy(golden_scheme("tekken"), path("tekken"));
  EXPECT_EQ(TextCodec::load(path("tekken")).end_of_text(), std::nullopt);
  write("tekken/tokenizer_config.json", R"({"eos_token": {"content": "</s>"}})");
  const TextCodec codec = TextCodec::load(path("tekken"));
  EXPECT_EQ(codec.end_of_text(), codec.id_of("</s>"));
  EXPECT_TRUE(codec.ends(codec.id_of("</s>").value()));
  write("tekken/tokenizer_config.json", R"({"eos_token": "<end>"})");
  EXPECT_THAT(error_of([&] { TextCodec::load(path("tekken")); }),
              HasSubstr("tekken/tokenizer_config.json: eos_token: expected a token of the tokenizer, found "
                        "\"<end>\""));
  // What transformers 4 would do and transformers 5 does not.
  write("tekken/tokenizer_config.json", R"({"eos_token": "</s>", "add_bos_token": false})");
  EXPECT_THAT(error_of([&] { TextCodec::load(path("tekken")); }), HasSubstr("add_bos_token: expected true"));
}

}  // namespace
}  // namespace wuneng::tokenizer_schemes_test
