// Every form of a record, and that no member with a meaning is passed over.
#include "data/text/record.h"

#include <gmock/gmock.h>

#include "data/text/python_json.h"
#include "runtime/error.h"

namespace wuneng::record_test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

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

std::string error(const std::string& line, const std::vector<std::string>& ignored = {}) {
  try {
    parse_record(line, ignored);
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(RecordTest, WhatIsWrongIsNamed) {
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
              HasSubstr("conversations[0].value: expected JSON"));
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

// A chat whose second message, an assistant's, has these members besides its role.
std::string answer(const std::string& members) {
  return R"({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", )" + members + "}]}";
}

TEST(RecordTest, CallsOfEveryKind) {
  const std::string called = "user: q | assistant: <f {\"a\":1}>", none = "user: q | assistant: <f {}>";
  EXPECT_EQ(show(answer(R"("content": "", "function_call": {"name": "f", "arguments": "{\"a\": 1}"})")),
            called);
  EXPECT_EQ(show(answer(R"("function_call": {"name": "f", "arguments": {"a": 1}})")), called);
  EXPECT_EQ(show(answer(R"("content": null, "tool_calls": [{"id": "1", "index": 0, "type": "function",
                           "function": {"name": "f", "arguments": "{\"a\": 1}"}}])")),
            called);
  EXPECT_EQ(show(answer(R"("tool_calls": [{"type": "function", "name": "f", "arguments": {"a": 1}}])")),
            called);
  for (const char* nothing : {R"("")", R"("  ")", R"("null")", "null", "{}", R"("{}")"})
    EXPECT_EQ(show(answer(R"("tool_calls": [{"function": {"name": "f", "arguments": )" +
                          std::string(nothing) + "}}]")),
              none);
  EXPECT_EQ(show(answer(R"("tool_calls": [{"function": {"name": "f"}}])")), none);
  EXPECT_EQ(show(R"({"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
                                  {"role": "function", "name": "f", "content": "r"}],
                     "functions": [{"name": "f", "parameters": {}}]})"),
            "assistant: <f {}> | tool: r tools "
            R"([{"type":"function","function":{"name":"f","parameters":{}}}])");

  EXPECT_THAT(error(answer(R"("tool_calls": [{"type": "custom", "custom": {}}])")),
              HasSubstr("found custom"));
  EXPECT_THAT(error(answer(R"("tool_calls": [{"name": "f", "parameters": {"a": 1}}])")),
              HasSubstr("messages[1].tool_calls: \"parameters\" is not understood"));
  EXPECT_THAT(error(answer(R"("tool_calls": [{"function": {"name": "f", "arguments": "a=1"}}])")),
              HasSubstr("tool_calls.function.arguments: expected JSON"));
  for (const char* value : {"[1]", "3", R"("3")", R"("\"x\"")", "true"})
    EXPECT_THAT(error(answer(R"("tool_calls": [{"function": {"name": "f", "arguments": )" +
                             std::string(value) + "}}]")),
                HasSubstr("arguments: expected an object, found"));
  EXPECT_THAT(error(answer(R"("function_call": {"name": "f"}, "tool_calls": [{"name": "f"}])")),
              HasSubstr("expected tool_calls or function_call, found both"));
  EXPECT_THAT(error(R"({"messages": [{"role": "user", "content": "q", "tool_calls": [{"name": "f"}]}]})"),
              HasSubstr("messages[0]: \"tool_calls\" is not understood"));
  EXPECT_THAT(
      error(R"({"messages": [{"role": "user", "content": "q"}], "tools": [], "functions": [{"name": "f"}]})"),
      HasSubstr("expected tools or functions, found both"));
}

TEST(RecordTest, ResultsAnswerTheirCallsInOrder) {
  const auto results = [](const std::string& first, const std::string& second) {
    return R"({"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f"}},
      {"id": "b", "function": {"name": "f"}}]}, {"role": "tool", "content": "1", "tool_call_id": ")" +
           first + R"("}, {"role": "tool", "content": "2", "tool_call_id": ")" + second + "\"}]}";
  };
  EXPECT_EQ(error(results("a", "b")), "no error");
  EXPECT_EQ(error(results("", "")), "no error");
  EXPECT_THAT(error(results("b", "a")), HasSubstr("messages[1].tool_call_id: expected a, since"));
  EXPECT_THAT(error(results("a", "c")), HasSubstr("messages[2].tool_call_id: expected b, since"));
}

TEST(RecordTest, MembersWithAMeaningAreUnderstoodOrRefused) {
  EXPECT_EQ(
      show(R"({"messages": [{"role": "developer", "content": "s"}, {"role": "user", "content": "q"}]})"),
      "system: s | user: q");
  // What a program that writes all members leaves empty, and what says where a message is from.
  EXPECT_EQ(show(answer(R"("content": "a", "refusal": null, "audio": null, "function_call": null, "name": "",
                           "tool_calls": [], "annotations": [], "id": "1", "timestamp": 3, "weight": null)")),
            "user: q | assistant: a");
  for (const char* member :
       {R"("refusal": "no")", R"("audio": {"id": "1"})", R"("name": "Eve")", R"("thinking": "so")",
        R"("annotations": [1])", R"("prefix": true)", R"("train": false)", R"("tool_call_id": "1")",
        R"("images": ["x"])", R"("anything": 0)"}) {
    const std::string key = std::string(member).substr(1, std::string(member).find('"', 1) - 1);
    const std::string line = answer(R"("content": "a", )" + std::string(member));
    EXPECT_THAT(error(line), HasSubstr("messages[1]: \"" + key + "\" is not understood (--ignore " + key));
    EXPECT_EQ(error(line, {key}), "no error");
  }
  EXPECT_THAT(error(R"({"conversations": [{"from": "gpt", "value": "a", "loss": false}]})"),
              HasSubstr("conversations[0]: \"loss\" is not understood"));
  EXPECT_THAT(error(answer(R"("content": [{"type": "text", "text": "a", "citation": "b"}])")),
              HasSubstr("messages[1].content: \"citation\" is not understood"));
  EXPECT_THAT(error(answer(R"("content": [{"type": "refusal", "refusal": "a"}])")),
              HasSubstr("found refusal"));

  const auto chat = [](const std::string& member) {
    return R"({"messages": [{"role": "user", "content": "q"}], )" + member + "}";
  };
  for (const char* member :
       {R"("images": ["x"])", R"("weight": 2)", R"("documents": [{}])", R"("history": [1])",
        R"("kto_tag": true)", R"("chat_template_kwargs": {"a": 1})", R"("system_prompt": "s")"})
    EXPECT_THAT(error(chat(member)), HasSubstr("is not understood (--ignore"));
  EXPECT_THAT(error(chat(R"("tool_choice": "none")")), HasSubstr("tool_choice: expected auto"));
  EXPECT_EQ(error(chat(R"("tool_choice": "auto", "images": [], "weight": null)")), "no error");
  EXPECT_THAT(error(chat(R"("conversations": [])")),
              HasSubstr("expected messages or conversations, found both"));
  EXPECT_THAT(error(R"({"messages": [{"role": "system", "content": "a"}], "system": "b"})"),
              HasSubstr("expected one system message"));
  EXPECT_THAT(error(R"({"prompt": "p", "completion": "c", "label": false})"),
              HasSubstr("label: good and bad"));
  for (const char* member : {R"("system": "s")", R"("tools": [{"name": "f"}])"})
    EXPECT_THAT(error(R"({"prompt": "p", "completion": "c", )" + std::string(member) + "}"),
                HasSubstr("expected a prompt of messages, found one of text"));
  EXPECT_EQ(show(R"({"prompt": [{"role": "user", "content": "p"}], "completion": "c", "system": "s"})"),
            "system: s | user: p => assistant: c");
  EXPECT_THAT(parse_record(chat(R"("id": 1, "source": "web", "lang": "")")).others,
              ElementsAre("id", "source"));
  EXPECT_THAT(parse_record(R"({"text": "x", "url": "u", "images": ["x"]})").others,
              ElementsAre("url", "images"));
}

TEST(RecordTest, WeightsTakeAnswersOutOfTheLoss) {
  const auto learnt = [](const std::string& line) {
    return parse_record(line).content.messages.back().learnt;
  };
  EXPECT_TRUE(learnt(answer(R"("content": "a")")));
  EXPECT_TRUE(learnt(answer(R"("content": "a", "weight": 1)")));
  EXPECT_FALSE(learnt(answer(R"("content": "a", "weight": 0)")));
  EXPECT_FALSE(learnt(R"({"conversations": [{"from": "gpt", "value": "a", "weight": 0}]})"));
  EXPECT_THAT(error(answer(R"("content": "a", "weight": 0.5)")),
              HasSubstr("weight: expected 0 or 1, found 0.5"));
  EXPECT_THAT(error(R"({"messages": [{"role": "user", "content": "q", "weight": 1}]})"),
              HasSubstr("messages[0].weight: expected 0"));
}

TEST(RecordTest, AlpacaQuestionsAreJoinedAsByLlamaFactory) {
  const auto asked = [](const std::string& members) { return show("{" + members + R"(, "output": "o"})"); };
  EXPECT_EQ(asked(R"("instruction": "", "input": "n")"), "user: n | assistant: o");
  EXPECT_EQ(asked(R"("instruction": null, "input": "n")"), "user: n | assistant: o");
  EXPECT_EQ(asked(R"("instruction": "i", "input": null)"), "user: i | assistant: o");
  EXPECT_EQ(asked(R"("instruction": "i", "history": [], "system": "")"), "user: i | assistant: o");
  EXPECT_EQ(asked(R"("instruction": "i", "input": "n", "history": null, "system": null)"),
            "user: i\nn | assistant: o");
  EXPECT_THAT(error(R"({"instruction": "", "input": "", "output": "o"})"), HasSubstr("found both empty"));
  EXPECT_THAT(error(R"({"instruction": "", "output": "o"})"), HasSubstr("found both empty"));
}

TEST(RecordTest, NumbersAndKeysAreKept) {
  const auto arguments = [](const std::string& text) {
    std::string out;
    append_python_json(
        parse_record(answer(R"("tool_calls": [{"function": {"name": "f", "arguments": )" + text + "}}]"))
            .content.messages[1]
            .tool_calls[0]
            .arguments,
        out);
    return out;
  };
  const std::string numbers =
      R"({"z": 18446744073709551615, "y": 18446744073709551616, "a": [-9223372036854775809, 1.5, -3], )"
      R"("e": 123456789012345678901234567890})";
  EXPECT_EQ(arguments(numbers), numbers);
  std::string quoted = "\"";
  for (const char c : numbers) quoted += c == '"' ? "\\\"" : std::string(1, c);
  EXPECT_EQ(arguments(quoted + "\""), numbers);
  EXPECT_EQ(arguments(R"({"a": 1e3})"), R"({"a": 1000.0})");
  EXPECT_THAT(error(R"({"text": 1e999})"), HasSubstr("number overflow"));
  EXPECT_THAT(error(R"({"text": "a", "text": "b"})"), HasSubstr("found \"text\" twice"));
  EXPECT_THAT(error(answer(R"("content": "a", "content": "b")")), HasSubstr("found \"content\" twice"));
  EXPECT_EQ(error(R"({"text": "a", "id": 123456789012345678901234567890})"), "no error");
}

}  // namespace
}  // namespace wuneng::record_test
