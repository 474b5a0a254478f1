#include "launch/serve/service.h"

#include <chrono>

#include "data/text/template_files.h"
#include "data/tokenizer/text_stream.h"
#include "data/tokenizer/tokenizer_files.h"
#include "launch/serve/http_error.h"

namespace wuneng::serving {

Json tokenizer_info_of(const std::string& directory, const TextCodec& codec) {
  Json out = {
      {"eos_token", nullptr}, {"bos_token", nullptr}, {"pad_token", nullptr}, {"chat_template", nullptr}};
  if (codec.end_of_text()) out["eos_token"] = codec.bytes_of(*codec.end_of_text());
  if (directory.empty()) return out;
  for (const char* name : {"eos_token", "bos_token", "pad_token"})
    if (const auto text = special_token(directory, name)) out[name] = *text;
  try {
    out["chat_template"] = read_template_files(directory).at("default").text;
  } catch (const Error&) {  // no template: chats are refused with the reason
  }
  return out;
}

Service::Service(ServedModel model, Json tokenizer_info, const Metrics& metrics)
    : model_(std::move(model)),
      tokenizer_info_(std::move(tokenizer_info)),
      metrics_(metrics),
      started_(std::chrono::duration_cast<std::chrono::seconds>(
                   std::chrono::system_clock::now().time_since_epoch())
                   .count()) {}

const Service::Route& Service::route(std::string_view target) {
  static constexpr Route kRoutes[] = {
      {"/v1/completions", "POST", false, &Service::completions},
      {"/v1/chat/completions", "POST", false, &Service::chat},
      {"/v1/models", "GET", false, &Service::models},
      {"/tokenize", "POST", false, &Service::tokenize},
      {"/detokenize", "POST", false, &Service::detokenize},
      {"/tokenizer_info", "GET", false, &Service::tokenizer_info},
      {"/health", "GET", true, &Service::health},
      {"/metrics", "GET", false, &Service::metrics},
  };
  const std::string_view path = target.substr(0, target.find('?'));
  std::string known;
  for (const Route& route : kRoutes) {
    if (path == route.path) return route;
    known += (known.empty() ? "" : ", ") + std::string(route.path);
  }
  throw HttpError(404, fmt::format("path: expected one of {}, found {}", known, path.substr(0, 100)), "",
                  "not_found");
}

std::variant<Answer, CompletionCall> Service::completions(std::string_view body) const {
  return read_completion_call(body, model_);
}

std::variant<Answer, CompletionCall> Service::chat(std::string_view body) const {
  return read_chat_call(body, model_);
}

std::variant<Answer, CompletionCall> Service::models(std::string_view) const {
  const Json model = {{"id", model_.name},
                      {"object", "model"},
                      {"created", started_},
                      {"owned_by", "wuneng"},
                      {"max_model_len", model_.context_length}};
  return Answer{200, Json{{"object", "list"}, {"data", Json::array({model})}}.dump()};
}

std::variant<Answer, CompletionCall> Service::tokenize(std::string_view body) const {
  const std::vector<int32_t> tokens = read_tokenize_call(body, model_);
  return Answer{
      200,
      Json{{"count", tokens.size()}, {"max_model_len", model_.context_length}, {"tokens", tokens}}.dump()};
}

std::variant<Answer, CompletionCall> Service::detokenize(std::string_view body) const {
  TextStream stream;
  std::string text;
  for (const int32_t id : read_detokenize_call(body, model_)) text += stream.push(model_.codec.bytes_of(id));
  text += stream.finish();
  return Answer{200, Json{{"prompt", text}}.dump()};
}

std::variant<Answer, CompletionCall> Service::tokenizer_info(std::string_view) const {
  return Answer{200, tokenizer_info_.dump()};
}

std::variant<Answer, CompletionCall> Service::health(std::string_view) const {
  return Answer{200, Json{{"status", "ok"}}.dump()};
}

std::variant<Answer, CompletionCall> Service::metrics(std::string_view) const {
  return Answer{200, metrics_.text(), "text/plain; version=0.0.4"};
}

}  // namespace wuneng::serving
