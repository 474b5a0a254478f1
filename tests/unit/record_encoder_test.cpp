// The loss mask of a record, and that it reaches the labels of a corpus: bytes, and chats through Qwen2.5's
// template with the golden tokenizer.
#include <gmock/gmock.h>

#include "data/batches/token_corpus.h"
#include "data/text/tokenize.h"
#include "data/token_files/token_info.h"
#include "runtime/error.h"
#include "tests/error_of.h"
#include "tests/unit/golden.h"
#include "tests/unit/scratch_dir.h"

namespace wuneng::record_encoder_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class RecordEncoderTest : public ScratchTest {
 protected:
  static const TextCodec& codec() {
    static const TextCodec loaded = TextCodec::load(golden("tokenizer"), "Qwen2.5 Instruct");
    return loaded;
  }
  static std::string shown(const std::vector<int32_t>& ids) {
    std::string out;
    for (const int32_t id : ids) out += codec().bytes_of(id);
    return out;
  }
  static std::string loss_mask(const Tokens& t) {
    std::string out;
    for (size_t i = 0; i < t.ids.size(); ++i)
      if (t.loss_mask[i]) out += codec().bytes_of(t.ids[i]);
    return out;
  }
  static std::vector<Tokens> encode(const char* line, DataKind kind) {
    return RecordEncoder(codec(), kind, codec().end_of_text()).encode(parse_record(line));
  }
  TokenizeOptions options(const std::string& input, DataKind kind) const {
    TokenizeOptions o{
        .text = {.paths = {path(input)}}, .prefixes = {path("out")}, .loss_mask = kind != DataKind::text};
    if (kind == DataKind::preference) o.prefixes = {path("out_chosen"), path("out_rejected")};
    return o;
  }
};

constexpr const char* kSystem =
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n";

TEST_F(RecordEncoderTest, TheAssistantsTurnsOfAChatAreLearnt) {
  const char* line =
      R"({"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"},
      {"role": "user", "content": "sure?"}, {"role": "assistant", "content": "yes"}]})";
  const std::string all = std::string(kSystem) +
                          "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
                          "<|im_start|>user\nsure?<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n";
  const Tokens t = encode(line, DataKind::supervised).at(0);
  EXPECT_EQ(shown(t.ids), all);
  EXPECT_EQ(loss_mask(t), "4<|im_end|>\nyes<|im_end|>\n");
  EXPECT_EQ(loss_mask(encode(line, DataKind::text).at(0)), all);
  EXPECT_EQ(loss_mask(encode(
                R"({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]})",
                DataKind::supervised)[0]),
            "a<|im_end|>\n");
  EXPECT_EQ(
      loss_mask(encode(R"({"instruction": "q", "input": "x", "output": "a"})", DataKind::supervised)[0]),
      "a<|im_end|>\n");
}

TEST_F(RecordEncoderTest, AnswersOfWeightZeroAreReadAndNotLearnt) {
  const auto chat = [](const char* first, const char* second) {
    return fmt::format(R"({{"messages": [{{"role": "user", "content": "2+2?"}},
      {{"role": "assistant", "content": "\n5"{}}}, {{"role": "user", "content": "no"}},
      {{"role": "assistant", "content": "4"{}}}]}})",
                       first, second);
  };
  const Tokens all = encode(chat("", "").c_str(), DataKind::supervised)[0],
               last = encode(chat(R"(, "weight": 0)", R"(, "weight": 1)").c_str(), DataKind::supervised)[0];
  EXPECT_EQ(last.ids, all.ids);
  EXPECT_EQ(loss_mask(all), "\n\n5<|im_end|>\n4<|im_end|>\n");
  EXPECT_EQ(loss_mask(last), "4<|im_end|>\n");
  EXPECT_THROW(encode(chat(R"(, "weight": 0)", R"(, "weight": 0)").c_str(), DataKind::supervised), Error);
}

TEST_F(RecordEncoderTest, AnotherKindThanTheFirstRecordsIsAnError) {
  const Record text = parse_record(R"({"text": "x"})"),
               chat = parse_record(R"({"prompt": "p", "completion": "c"})");
  const RecordEncoder automatic(codec(), DataKind::text, {}, true), chosen(codec(), DataKind::text, {});
  EXPECT_NO_THROW(automatic.encode(text));
  EXPECT_NO_THROW(chosen.encode(chat));
  try {
    automatic.encode(chat);
    FAIL() << "a completion was taken for text";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("expected text data as in the first record, found supervised: --kind"));
  }
}

TEST_F(RecordEncoderTest, ToolsAndTheirCallsGoThroughTheTemplate) {
  const Tokens t = encode(
      R"({"tools": [{"type": "function", "function": {"name": "f"}}],
      "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": null, "tool_calls":
        [{"function": {"name": "f", "arguments": "{\"b\": 1, \"a\": 2}"}}]},
      {"role": "tool", "content": "3"}, {"role": "assistant", "content": "three"}]})",
      DataKind::supervised)[0];
  EXPECT_THAT(shown(t.ids),
              HasSubstr("<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"f\"}}\n</tools>"));
  EXPECT_EQ(loss_mask(t),
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"b\": 1, \"a\": 2}}\n</tool_call><|im_end|>\n"
            "three<|im_end|>\n");
}

TEST_F(RecordEncoderTest, CompletionsAreLearntAndPromptsAreNot) {
  const Tokens plain = encode(R"({"prompt": "ab", "completion": "cd"})", DataKind::supervised)[0];
  EXPECT_EQ(shown(plain.ids), "abcd<|endoftext|>");
  EXPECT_EQ(loss_mask(plain), "cd<|endoftext|>");
  const Tokens chat = encode(
      R"({"prompt": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "old"},
      {"role": "user", "content": "again"}], "completion": [{"role": "assistant", "content": "new"}]})",
      DataKind::supervised)[0];
  EXPECT_THAT(shown(chat.ids), HasSubstr("old<|im_end|>\n"));
  EXPECT_EQ(loss_mask(chat), "new<|im_end|>\n");
}

// Qwen3's template keeps the thought of a chat's end alone.
TEST_F(RecordEncoderTest, ThoughtsAreLearntAndMustNotChangeThePrompt) {
  const TextCodec qwen3 = TextCodec::load(golden("tokenizer_schemes") + "/qwen3", "Qwen3");
  const RecordEncoder encoder(qwen3, DataKind::supervised, {});
  const auto learnt = [&](const char* line) {
    const Tokens t = encoder.encode(parse_record(line))[0];
    std::string out;
    for (size_t i = 0; i < t.ids.size(); ++i)
      if (t.loss_mask[i]) out += qwen3.bytes_of(t.ids[i]);
    return out;
  };
  EXPECT_EQ(learnt(R"({"messages": [{"role": "user", "content": "q"},
                       {"role": "assistant", "content": "a", "reasoning_content": "so"}]})"),
            "<think>\nso\n</think>\n\na<|im_end|>\n");
  EXPECT_EQ(learnt(R"({"prompt": [{"role": "user", "content": "q"}],
                       "completion": [{"role": "assistant", "content": "<think>so</think>a"}]})"),
            "<think>\nso\n</think>\n\na<|im_end|>\n");
  EXPECT_THAT(
      error_of([&] {
        learnt(R"({"prompt": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
                           "completion": [{"role": "assistant", "content": "a"}]})");
      }),
      HasSubstr("expected a prompt that its answer continues, found one that the chat template writes"));
}

TEST_F(RecordEncoderTest, ChatsHaveTheOptionsOfTheTemplate) {
  const TextCodec llama = TextCodec::load(golden("tokenizer_schemes") + "/llama3", "Llama 3.1 Instruct");
  const Record chat = parse_record(R"({"messages": [{"role": "user", "content": "q"},
                                                    {"role": "assistant", "content": "a"}]})");
  const auto text = [&](const ChatOptions& options) {
    std::string out;
    const RecordEncoder encoder(llama, DataKind::supervised, {}, false, options);
    const Tokens tokens = encoder.encode(chat)[0];
    for (const int32_t id : tokens.ids) out += llama.bytes_of(id);
    return out;
  };
  EXPECT_THAT(text({}), HasSubstr("Today Date: 26 Jul 2024\n"));
  EXPECT_THAT(text({.date_string = "1 Feb 2026"}), HasSubstr("Today Date: 1 Feb 2026\n"));
  EXPECT_NO_THROW(llama.check_chat_options({.date_string = "1 Feb 2026"}));
  EXPECT_NO_THROW(TextCodec::bytes().check_chat_options({}));
  EXPECT_THAT(error_of([&] { llama.check_chat_options({.enable_thinking = false}); }),
              HasSubstr("chat option enable_thinking: expected none"));
}

TEST_F(RecordEncoderTest, PairsAreTwoDocumentsOfOnePrompt) {
  for (
      const char* line :
      {R"({"prompt": "q", "chosen": "good", "rejected": "bad"})",
       R"({"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": "bad"}]})",
       R"({"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"}})"}) {
    const auto pair = encode(line, DataKind::preference);
    ASSERT_EQ(pair.size(), 2u);
    EXPECT_THAT(loss_mask(pair[0]), ::testing::StartsWith("good<|"));
    EXPECT_THAT(loss_mask(pair[1]), ::testing::StartsWith("bad<|"));
    const auto without_loss = [](const Tokens& t) {
      return std::count(t.loss_mask.begin(), t.loss_mask.end(), 0);
    };
    EXPECT_GT(without_loss(pair[0]), 0);
    EXPECT_EQ(without_loss(pair[0]), without_loss(pair[1]));
    EXPECT_THROW(encode(line, DataKind::supervised), Error);
  }
  EXPECT_THROW(encode(R"({"text": "x"})", DataKind::preference), Error);
  // A data set with nothing to learn is a mistake, not data.
  EXPECT_THROW(encode(R"({"messages": [{"role": "user", "content": "q"}]})", DataKind::supervised), Error);
}

TEST_F(RecordEncoderTest, MasksReachTheLabels) {
  write("in.jsonl", "{\"prompt\": \"ab\", \"completion\": \"cd\"}\n{\"text\": \"ef\"}\n");
  const TokenizeProgress done =
      tokenize_files(options("in.jsonl", DataKind::supervised),
                     RecordEncoder(TextCodec::bytes(), DataKind::supervised, 0), nullptr);
  EXPECT_EQ(done.records, 2);
  EXPECT_EQ(done.tokens, 8);
  EXPECT_EQ(done.loss_tokens, 6);
  const auto corpus = open_token_corpus({.paths = {path("out")}, .vocab_size = 256, .held_out_every = 0});
  const Sample all = corpus->read(Split::train, 0, 8);
  EXPECT_THAT(all.tokens, ElementsAre('a', 'b', 'c', 'd', 0, 'e', 'f', 0));
  EXPECT_THAT(all.labels, ElementsAre(kNoLabel, 'c', 'd', 0, kNoLabel, 'f', 0, kNoLabel));
  write("chat.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}]}\n");
  try {
    tokenize_files(options("chat.jsonl", DataKind::supervised),
                   RecordEncoder(TextCodec::bytes(), DataKind::supervised, 0), nullptr);
    FAIL() << "a chat was taken without a template";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("chat.jsonl line 1: a chat: bytes have no chat template"));
  }
  EXPECT_EQ(TokenFile::open(path("out")).documents(), 2);  // the older files are untouched
  EXPECT_EQ(TokenFile::open_mask(TokenFile::open(path("out")))->tokens(), 8);
}

TEST_F(RecordEncoderTest, DocumentsOfAPairHaveTheSameNumber) {
  std::string lines;
  for (int i = 0; i < 200; ++i)
    lines +=
        i % 50 == 7
            ? "{\"prompt\": \"\", \"chosen\": \"x\", \"rejected\": \"\"}\n"  // one has no token
            : fmt::format("{{\"prompt\": \"{0}:\", \"chosen\": \"good {0}\", \"rejected\": \"bad\"}}\n", i);
  write("pairs.jsonl", lines);
  const TokenizeProgress done =
      tokenize_files(options("pairs.jsonl", DataKind::preference),
                     RecordEncoder(TextCodec::bytes(), DataKind::preference, {}), nullptr);
  EXPECT_EQ(done.records, 196);
  EXPECT_EQ(done.empty, 4);
  const TokenFile chosen = TokenFile::open(path("out_chosen")),
                  rejected = TokenFile::open(path("out_rejected"));
  ASSERT_EQ(chosen.documents(), 196);
  ASSERT_EQ(rejected.documents(), 196);
  ASSERT_TRUE(TokenFile::open_mask(chosen) && TokenFile::open_mask(rejected));
  const auto text = [](const TokenFile& file, int64_t d) {
    const int64_t begin = file.document_begin(d), count = file.document_begin(d + 1) - begin;
    std::vector<int32_t> ids(count);
    file.read(begin, count, 256, ids.data());
    return std::string(ids.begin(), ids.end());
  };
  for (int64_t d = 0; d < 196; ++d) {
    const std::string a = text(chosen, d), b = text(rejected, d);
    EXPECT_EQ(a.substr(0, a.find(':')), b.substr(0, b.find(':')));
    EXPECT_EQ(b.substr(b.find(':')), ":bad");
  }
}

TEST_F(RecordEncoderTest, TokensOfAnotherTokenizerAreRefused) {
  write("in.jsonl", "{\"text\": \"abcdef\"}\n");
  for (const char* name : {"one", "two"}) {
    TokenizeOptions o = options("in.jsonl", DataKind::text);
    o.prefixes = {path(name)};
    tokenize_files(o, RecordEncoder(TextCodec::bytes(), DataKind::text, {}), nullptr);
  }
  const auto open = [&](int32_t vocab) {
    return open_token_corpus({.paths = {path("one"), path("two")}, .vocab_size = vocab, .held_out_every = 0});
  };
  EXPECT_EQ(open(256)->tokenizer(), "bytes");
  EXPECT_THROW(open(200), Error);
  write_token_info(path("two"), {codec().name(), codec().vocab_size(), "text", "", {"in.jsonl"}});
  EXPECT_THROW(open(1 << 20), Error);
  write("two.json", "{}");
  EXPECT_THROW(open(256), Error);
  for (const char* name : {"one.json", "two.json"}) std::filesystem::remove(path(name));
  EXPECT_EQ(open(200)->tokenizer(), "");  // nothing said; all tokens are below 200
  EXPECT_THROW(open('f'), Error);
}

TEST_F(RecordEncoderTest, SaysWhatMadeTheFiles) {
  write("in.jsonl", R"({"prompt": "a", "chosen": "b", "rejected": "c"})");
  tokenize_files(options("in.jsonl", DataKind::preference),
                 RecordEncoder(TextCodec::bytes(), DataKind::preference, {}), nullptr);
  const std::optional<TokenInfo> chosen = read_token_info(path("out_chosen")),
                                 rejected = read_token_info(path("out_rejected"));
  ASSERT_TRUE(chosen && rejected);
  EXPECT_EQ(chosen->tokenizer, "bytes");
  EXPECT_EQ(chosen->vocab_size, 256);
  EXPECT_EQ(chosen->kind, "preference");
  EXPECT_EQ(chosen->pair, path("out_rejected"));
  EXPECT_EQ(rejected->pair, path("out_chosen"));
  EXPECT_THAT(chosen->sources, ElementsAre(path("in.jsonl")));
}

}  // namespace
}  // namespace wuneng::record_encoder_test
