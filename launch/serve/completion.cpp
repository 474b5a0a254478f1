#include "launch/serve/completion.h"

#include <fmt/format.h>

#include "data/tokenizer/utf8.h"

namespace wuneng::serving {
namespace {

int64_t characters_of(std::string_view text) {
  int64_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  return count;
}

std::string sent_event(const Json& data) { return "data: " + data.dump() + "\n\n"; }

}  // namespace

Completion::Completion(CompletionCall call, const ServedModel& model, std::string id, int64_t created)
    : call_(std::move(call)), model_(model), id_(std::move(id)), created_(created) {
  for (size_t i = 0; i < call_.prompts.size() * call_.choices; ++i)
    choices_.push_back({TextStream(call_.stops), TextStream()});
}

std::vector<GenerationRequest> Completion::requests() const {
  std::vector<GenerationRequest> out;
  for (const std::vector<int32_t>& prompt : call_.prompts)
    for (int64_t i = 0; i < call_.choices; ++i) {
      out.push_back({.prompt = prompt,
                     .max_tokens = call_.max_tokens,
                     .sampling = call_.sampling,
                     .end_tokens = model_.end_tokens,
                     .logprobs = call_.logprobs,
                     .prompt_logprobs = call_.echo && call_.logprobs >= 0});
      out.back().sampling.seed += static_cast<uint64_t>(i);
    }
  return out;
}

// Of a token that is no text, its bytes as OpenAI writes them, or its id.
std::string Completion::name_of(int32_t token) const {
  const std::string_view bytes = model_.codec.bytes_of(token);
  if (bytes.empty()) return fmt::format("token_id:{}", token);
  if (find_invalid_utf8(bytes) == bytes.size()) return std::string(bytes);
  std::string out = "bytes:";
  for (const char c : bytes) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return out;
}

void Completion::add_scored(Choice& choice, const ScoredToken& token, std::string_view bytes,
                            bool has_logprob, bool generated) {
  if (call_.logprobs < 0) return;
  const size_t needs = generated ? choice.bytes + !bytes.empty() : 0;
  choice.scored.push_back({token, has_logprob, choice.characters, needs});
  choice.characters += characters_of(choice.positions.push(bytes));
}

// The prompt's text, where the call wants it, with all of its tokens. Those that the tokenizer has put before
// it have no text.
std::string Completion::begin(Choice& choice, size_t number, const std::vector<ScoredToken>& prompt) {
  choice.begun = true;
  if (!call_.echo) return "";
  TextStream text;
  std::string out;
  const std::vector<int32_t>& tokens = call_.prompts[number / call_.choices];
  const size_t added = call_.added[number / call_.choices];
  for (size_t i = added; i < tokens.size(); ++i) out += text.push(model_.codec.bytes_of(tokens[i]));
  out += text.finish();
  for (size_t i = 0; i < prompt.size(); ++i)
    add_scored(choice, prompt[i], i < added ? std::string_view() : model_.codec.bytes_of(prompt[i].token),
               i > 0, false);
  choice.characters += characters_of(choice.positions.finish());
  return out;
}

std::string Completion::take(size_t number, const GenerationEvent& event) {
  Choice& choice = choices_[number];
  if (choice.finish) return "";
  std::string text;
  if (!choice.begun) text = begin(choice, number, event.prompt);
  if (event.token) {
    ++generated_;
    const int32_t token = event.token->token;
    const bool hidden = event.finish == Finish::end_token || model_.codec.is_special(token);
    const std::string_view bytes = hidden ? std::string_view() : model_.codec.bytes_of(token);
    add_scored(choice, *event.token, bytes, true, true);
    choice.bytes += bytes.size();
    text += choice.text.push(bytes);
  }
  if (choice.text.stopped() || event.finish == Finish::end_token)
    choice.finish = "stop";
  else if (event.finish == Finish::length)
    choice.finish = "length";
  if (choice.finish) {
    ++ended_;
    text += choice.text.finish();
    // What a stop string has cut off is not part of the answer.
    std::erase_if(choice.scored, [&](const Scored& s) { return s.needs > choice.text.given_out(); });
  }
  if (!call_.stream) {
    choice.given += text;
    return "";
  }
  std::vector<Scored> scored, rest;
  for (Scored& s : choice.scored)
    (s.needs <= choice.text.given_out() ? scored : rest).push_back(std::move(s));
  choice.scored = std::move(rest);
  std::string out;
  if (!text.empty() || !scored.empty())
    out = event_of(number, text, call_.chat ? chat_logprobs_of(scored) : logprobs_of(scored), nullptr);
  if (choice.finish) out += event_of(number, call_.chat ? Json() : Json(""), nullptr, choice.finish);
  return out;
}

Json Completion::logprobs_of(const std::vector<Scored>& tokens) const {
  if (call_.logprobs < 0) return nullptr;
  Json names = Json::array(), values = Json::array(), tops = Json::array(), offsets = Json::array();
  for (const Scored& s : tokens) {
    const std::string name = name_of(s.token.token);
    names.push_back(name);
    values.push_back(s.has_logprob ? Json(s.token.logprob) : Json());
    offsets.push_back(s.characters);
    Json top;
    if (s.has_logprob && call_.logprobs > 0) {  // the token itself too, where it is not among them
      for (const auto& [token, logprob] : s.token.top) top.emplace(name_of(token), logprob);
      top.emplace(name, s.token.logprob);
    }
    tops.push_back(std::move(top));
  }
  return {{"tokens", names}, {"token_logprobs", values}, {"top_logprobs", tops}, {"text_offset", offsets}};
}

Json Completion::chat_logprobs_of(const std::vector<Scored>& tokens) const {
  if (call_.logprobs < 0) return nullptr;
  const auto one = [&](int32_t token, float logprob) {
    Json bytes = Json::array();
    for (const char c : model_.codec.bytes_of(token)) bytes.push_back(static_cast<unsigned char>(c));
    return Json{{"token", name_of(token)}, {"logprob", logprob}, {"bytes", bytes}};
  };
  Json content = Json::array();
  for (const Scored& s : tokens) {
    Json entry = one(s.token.token, s.token.logprob), top = Json::array();
    for (const auto& [token, logprob] : s.token.top) top.push_back(one(token, logprob));
    entry["top_logprobs"] = std::move(top);
    content.push_back(std::move(entry));
  }
  return {{"content", content}, {"refusal", nullptr}};
}

Json Completion::usage() const {
  int64_t prompt = 0;
  for (const std::vector<int32_t>& tokens : call_.prompts) prompt += std::ssize(tokens);
  return {
      {"prompt_tokens", prompt}, {"completion_tokens", generated_}, {"total_tokens", prompt + generated_}};
}

Json Completion::answer_of(const char* chat_object, const Json& choices) const {
  return {{"id", id_},
          {"object", call_.chat ? chat_object : "text_completion"},
          {"created", created_},
          {"model", model_.name},
          {"choices", choices}};
}

std::string Completion::answer() const {
  Json choices = Json::array();
  for (size_t i = 0; i < choices_.size(); ++i) {
    const Choice& c = choices_[i];
    Json choice = {{"index", i}};
    if (call_.chat) {
      choice["message"] = {{"role", "assistant"}, {"content", c.given}, {"refusal", nullptr}};
      choice["logprobs"] = chat_logprobs_of(c.scored);
    } else {
      choice["text"] = c.given;
      choice["logprobs"] = logprobs_of(c.scored);
    }
    choice["finish_reason"] = c.finish;
    choices.push_back(std::move(choice));
  }
  Json out = answer_of("chat.completion", choices);
  out["usage"] = usage();
  return out.dump();
}

// text: null for none, in the last event of a chat's choice.
std::string Completion::event_of(size_t number, const Json& text, const Json& logprobs,
                                 const char* finish) const {
  Json choice = {{"index", number}};
  if (call_.chat)
    choice["delta"] = text.is_null() ? Json::object() : Json{{"content", text}};
  else
    choice["text"] = text;
  choice["logprobs"] = logprobs;
  choice["finish_reason"] = finish ? Json(finish) : Json();
  Json out = answer_of("chat.completion.chunk", Json::array({choice}));
  if (call_.include_usage) out["usage"] = nullptr;
  return sent_event(out);
}

std::string Completion::begin_stream() const {
  if (!call_.chat) return "";
  std::string out;
  for (size_t i = 0; i < choices_.size(); ++i) {
    Json first = {{"index", i},
                  {"delta", {{"role", "assistant"}, {"content", ""}}},
                  {"logprobs", nullptr},
                  {"finish_reason", nullptr}};
    Json event = answer_of("chat.completion.chunk", Json::array({first}));
    if (call_.include_usage) event["usage"] = nullptr;
    out += sent_event(event);
  }
  return out;
}

std::string Completion::end_stream() const {
  std::string out;
  if (call_.include_usage) {
    Json last = answer_of("chat.completion.chunk", Json::array());
    last["usage"] = usage();
    out = sent_event(last);
  }
  return out + "data: [DONE]\n\n";
}

}  // namespace wuneng::serving
