// Chats against the output of jinja2 for the templates of published models
// (tests/golden/tokenizer/chats.json, written by make_tokenizer_golden.py, and tests/golden/chats.json, by
// make_chat_golden.py), and errors. check_tokenizer.py and check_chat_templates.py compare the templates
// themselves.
#include "data/text/chat_template.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "data/text/python_json.h"
#include "data/text/template_files.h"
#include "runtime/error.h"
#include "runtime/file.h"
#include "tests/error_of.h"
#include "tests/unit/golden.h"
#include "tests/unit/scratch_dir.h"

namespace wuneng::chat_template_test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

const std::string kGolden = golden("tokenizer");

std::string rendered(const ChatTemplate& chat_template, const Json& messages, const Json& tools = {},
                     const ChatOptions& options = {}) {
  std::string text;
  for (const ChatSegment& segment : chat_template.render(messages, tools, options)) text += segment.text;
  return text;
}

TEST(ChatTemplate, TextsIdsAndMasksOfTheGoldenFile) {
  const Tokenizer tokenizer = Tokenizer::load(kGolden);
  const ChatTemplate base = ChatTemplate::named("Qwen2.5"),
                     instruct = ChatTemplate::named("Qwen2.5 Instruct");
  const auto rows = Json::parse(read_file(kGolden + "/chats.json"));
  ASSERT_GT(rows.size(), 50u);
  for (const Json& row : rows) {
    const Json &messages = row["messages"], &tools = row["tools"];
    const ChatOptions prompt{.add_generation_prompt = row["add_generation_prompt"]};
    ASSERT_EQ(rendered(base, messages, tools, prompt), row["base"].get<std::string>());
    ASSERT_EQ(rendered(instruct, messages, tools, prompt), row["instruct"].get<std::string>());
    const EncodedChat encoded = encode_chat(tokenizer, instruct, messages, tools, prompt);
    ASSERT_EQ(encoded.ids, row["ids"].get<std::vector<int32_t>>()) << messages;
    ASSERT_EQ(encoded.assistant, row["mask"].get<std::vector<uint8_t>>()) << messages;
  }
}

TEST(ChatTemplate, TextsIdsAndMasksOfOtherFamilies) {
  std::map<std::string, Tokenizer> tokenizers;
  std::map<std::string, int> seen;
  for (const Json& row : Json::parse(read_file(golden("chats.json")))) {
    const std::string scheme = row["tokenizer"], name = row["template"];
    if (!tokenizers.contains(scheme))
      tokenizers.emplace(scheme, Tokenizer::load(golden("tokenizer_schemes") + "/" + scheme));
    const Json& given = row["options"];
    ChatOptions options{.add_generation_prompt = given["add_generation_prompt"]};
    if (given.contains("enable_thinking")) options.enable_thinking = given["enable_thinking"].get<bool>();
    if (given.contains("date_string")) options.date_string = given["date_string"].get<std::string>();
    const ChatTemplate chat_template = ChatTemplate::named(name);
    ASSERT_EQ(rendered(chat_template, row["messages"], row["tools"], options), row["text"].get<std::string>())
        << name;
    const EncodedChat encoded =
        encode_chat(tokenizers.at(scheme), chat_template, row["messages"], row["tools"], options);
    ASSERT_EQ(encoded.ids, row["ids"].get<std::vector<int32_t>>()) << name << row["messages"];
    std::string mask;
    for (const uint8_t m : encoded.assistant) mask += m ? '1' : '0';
    ASSERT_EQ(mask, row["mask"].get<std::string>()) << name << row["messages"];
    ++seen[name];
  }
  for (const std::string& name : ChatTemplate::names())
    EXPECT_TRUE(seen[name] > 10 || name.starts_with("Qwen2.5")) << name;
}

TEST(ChatTemplate, WhatATemplateWouldLeaveOutIsRefused) {
  const auto refusal = [](const char* name, const char* messages, const char* tools = "null",
                          const ChatOptions& options = {}) {
    return error_of(
        [&] { ChatTemplate::named(name).render(Json::parse(messages), Json::parse(tools), options); });
  };
  const char *user = R"([{"role": "user", "content": "a"}])", *tools = R"([{"function": {"name": "f"}}])";
  for (const char* name : {"SmolLM2 Instruct", "Llama 3 Instruct"}) {
    EXPECT_THAT(refusal(name, user, tools), AllOf(HasSubstr("chat tools: expected none"), HasSubstr(name)));
    EXPECT_THAT(refusal(name, R"([{"role": "assistant", "content": "", "tool_calls":
                                  [{"name": "f", "arguments": {}}]}])"),
                HasSubstr("chat message 0: tool_calls: expected none, since the chat template of"));
  }
  EXPECT_THAT(refusal("Llama 3.1 Instruct", R"([{"role": "system", "content": "a"}])", tools),
              HasSubstr("chat message 1: role: expected user, whose first message shows the tools"));
  const char* calls =
      R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "tool_calls":
                          [{"name": "f", "arguments": {}, "id": "123456789"}]}])";
  for (const char* name : {"Llama 3.1 Instruct", "Mistral NeMo Instruct"})
    EXPECT_THAT(refusal(name, calls), HasSubstr("chat message 1: content: expected none beside tool_calls"));
  EXPECT_THAT(refusal("Llama 3.2 Instruct", R"([{"role": "assistant", "content": "", "tool_calls":
                       [{"name": "f", "arguments": {}}, {"name": "f", "arguments": {}}]}])"),
              HasSubstr("chat message 0: tool_calls: expected one, as the chat template takes, found 2"));

  const char* mistral = "Mistral NeMo Instruct";
  EXPECT_THAT(refusal(mistral, R"([{"role": "assistant", "content": "a"}])"),
              HasSubstr("chat message 0: role: expected user, as user and assistant alternate"));
  EXPECT_THAT(refusal(mistral, R"([{"role": "system", "content": "a"}, {"role": "user", "content": "b"},
                                   {"role": "assistant", "content": "c"}])"),
              HasSubstr("chat message 0: role: expected no system message"));
  EXPECT_THAT(refusal(mistral, R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "",
                                   "tool_calls": [{"name": "f", "arguments": {}, "id": "1"}]}])"),
              HasSubstr("chat message 1: tool_calls: id: expected 9 letters and digits"));

  const char* thought = R"([{"role": "assistant", "content": "a", "reasoning_content": "b"}])";
  EXPECT_THAT(refusal("Qwen3", thought), HasSubstr("no error"));
  EXPECT_THAT(refusal("Qwen3 Instruct 2507", thought),
              HasSubstr("chat message 0: reasoning_content: expected none"));
  EXPECT_EQ(refusal("Qwen2.5", R"([{"role": "assistant", "content": "a", "reasoning_content": ""}])"),
            "no error");
  EXPECT_THAT(refusal("Qwen2.5", user, "null", {.enable_thinking = false}),
              HasSubstr("chat option enable_thinking: expected none, since the chat template of Qwen2.5"));
  EXPECT_THAT(refusal("Qwen3", user, "null", {.date_string = "today"}), HasSubstr("chat option date_string"));
}

TEST(ChatTemplate, TheMaskCoversContentAndEndOfEachAssistantTurn) {
  const Tokenizer tokenizer = Tokenizer::load(kGolden);
  const Json messages = {{{"role", "user"}, {"content", "Hi"}},
                         {{"role", "assistant"}, {"content", "Hello!"}},
                         {{"role", "user"}, {"content", "<more>"}},
                         {{"role", "assistant"}, {"content", "Bye."}}};
  const EncodedChat chat = encode_chat(tokenizer, ChatTemplate::named("Qwen2.5 Instruct"), messages, nullptr,
                                       {.add_generation_prompt = true});
  std::vector<int32_t> loss_mask;
  for (size_t i = 0; i < chat.ids.size(); ++i)
    if (chat.assistant[i]) loss_mask.push_back(chat.ids[i]);
  EXPECT_EQ(tokenizer.decode(loss_mask), "Hello!<|im_end|>\nBye.<|im_end|>\n");
}

TEST(ChatTemplate, MessagesThatTheTemplateCannotTakeAreRefused) {
  const ChatTemplate t = ChatTemplate::named("Qwen2.5");
  const auto refusal = [&](const char* messages, const char* tools = "null") {
    return error_of([&] { t.render(Json::parse(messages), Json::parse(tools), {}); });
  };
  EXPECT_THAT(refusal("[]"), HasSubstr("expected a list of at least one message, found []"));
  EXPECT_THAT(refusal("{}"), HasSubstr("expected a list of at least one message"));
  EXPECT_THAT(refusal("[1]"), HasSubstr("chat message 0: expected an object, found 1"));
  EXPECT_THAT(refusal(R"([{"role": "user"}])"), HasSubstr("chat message 0: content: expected a string"));
  EXPECT_THAT(refusal(R"([{"role": "user", "content": "a"}, {"role": "critic", "content": "b"}])"),
              AllOf(HasSubstr("chat message 1: role: expected system"), HasSubstr("\"critic\"")));
  EXPECT_THAT(refusal(R"([{"role": "assistant", "content": "", "tool_calls": [3]}])"),
              HasSubstr("tool_calls: expected an object with name and arguments"));
  EXPECT_THAT(refusal(R"([{"role": "assistant", "content": "", "tool_calls": 7}])"),
              HasSubstr("tool_calls: expected a list, found 7"));
  EXPECT_THAT(refusal(R"([{"role": "user", "content": "a"}])", R"({"a": 1})"),
              HasSubstr("chat tools: expected a list"));
  EXPECT_THAT(error_of([] { ChatTemplate::named("Llama"); }), HasSubstr("found \"Llama\""));
}

class ChatTemplateFile : public ScratchTest {};

TEST_F(ChatTemplateFile, OtherTemplatesAreRefusedByTheFilesName) {
  const auto refusal = [&] { return error_of([&] { ChatTemplate::load(root_.string()); }); };
  write("tokenizer_config.json", R"({"chat_template": "{{ messages }}"})");
  EXPECT_THAT(refusal(), HasSubstr(path("tokenizer_config.json") +
                                   ": chat_template: expected the chat template of Qwen2.5"));
  write("tokenizer_config.json", "{}");
  EXPECT_THAT(refusal(), HasSubstr("chat_template: expected a template in it, in chat_template.jinja or "
                                   "chat_template.json, found none"));
  write("tokenizer_config.json", R"({"chat_template": [{"name": "default", "template": "x"}]})");
  EXPECT_THAT(refusal(), HasSubstr("chat_template.default: expected the chat template of Qwen2.5"));
  write("tokenizer_config.json", "[");
  EXPECT_THAT(refusal(), HasSubstr(path("tokenizer_config.json") + ": expected JSON"));
  write("tokenizer_config.json", "{}");
  write("chat_template.jinja", "{{ messages }}");
  EXPECT_THAT(refusal(), HasSubstr(path("chat_template.jinja") + ": expected the chat template of Qwen2.5"));
}

// Where Hugging Face's tokenizers look, by their order.
TEST_F(ChatTemplateFile, ListsOfTemplatesAndFilesOfTheirOwn) {
  using Names = std::map<std::string, std::string>;
  const auto texts = [&] {
    Names out;
    for (const auto& [name, file] : read_template_files(root_.string())) out[name] = file.text;
    return out;
  };
  const auto refusal = [&] { return error_of([&] { texts(); }); };
  write("tokenizer_config.json", R"({"chat_template": "a"})");
  EXPECT_EQ(texts(), (Names{{"default", "a"}}));
  write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "default", "template": "b"}, {"name": "tool_use", "template": "c"}]})");
  EXPECT_EQ(texts(), (Names{{"default", "b"}, {"tool_use", "c"}}));
  write("chat_template.json", R"({"chat_template": "b"})");
  EXPECT_EQ(texts(), (Names{{"default", "b"}, {"tool_use", "c"}}));
  write("chat_template.jinja", "d");
  EXPECT_THAT(refusal(),
              AllOf(HasSubstr("chat_template.json: expected the template of"), HasSubstr(".jinja")));
  std::filesystem::remove(path("chat_template.json"));
  write("additional_chat_templates/rag.jinja", "e");
  EXPECT_EQ(texts(), (Names{{"default", "d"}, {"rag", "e"}, {"tool_use", "c"}}));
  std::filesystem::remove(path("chat_template.jinja"));
  std::filesystem::remove(path("tokenizer_config.json"));
  EXPECT_THAT(refusal(), HasSubstr("found only rag"));
  write("chat_template.json", R"({"chat_template": "f"})");
  EXPECT_EQ(texts(), (Names{{"default", "f"}, {"rag", "e"}}));
  for (const char* wrong : {R"({"chat_template": [{"name": "default"}]})", R"({"chat_template": ["x"]})",
                            R"({"chat_template": [{"name": "default", "template": 1}]})"}) {
    write("tokenizer_config.json", wrong);
    EXPECT_THAT(refusal(), HasSubstr("expected a list of {\"name\": .., \"template\": ..}"));
  }
  write("tokenizer_config.json",
        R"({"chat_template": [{"name": "default", "template": "b"}, {"name": "default", "template": "c"}]})");
  EXPECT_THAT(refusal(), HasSubstr("found default twice"));
  write("tokenizer_config.json", R"({"chat_template": 3})");
  EXPECT_THAT(refusal(), HasSubstr("expected a template or a list of them, found number"));
}

TEST(PythonJson, AsJsonDumpsWritesIt) {
  const auto dumped = [](const char* text) {
    std::string out;
    append_python_json(Json::parse(text), out);
    return out;
  };
  EXPECT_EQ(dumped(R"({"b":[1,2.50,-0.0,1e-5,1e16,1e15,123456.75],"a":{"é\u2028<":null,"t":true}})"),
            "{\"b\": [1, 2.5, -0.0, 1e-05, 1e+16, 1000000000000000.0, 123456.75], \"a\": {\"é\u2028<\": "
            "null, \"t\": true}}");
  std::string indented;
  append_python_json(Json::parse(R"({"a": [1, {"b": []}], "c": {}})"), indented, 2);
  EXPECT_EQ(indented, "{\n  \"a\": [\n    1,\n    {\n      \"b\": []\n    }\n  ],\n  \"c\": {}\n}");
  EXPECT_EQ(dumped("[[], {}, \"\\u0001\\n\\\"\\\\/\"]"), "[[], {}, \"\\u0001\\n\\\"\\\\/\"]");
}

}  // namespace
}  // namespace wuneng::chat_template_test
