// Service: what each path of the server answers. It knows no connections: a call for completions is returned,
// for the connection to run.
#pragma once
#include <string>
#include <string_view>
#include <variant>

#include "data/text/exact_json.h"
#include "launch/serve/metrics.h"
#include "launch/serve/request.h"

namespace wuneng::serving {

struct Answer {
  int status = 200;
  std::string body;
  const char* content_type = "application/json";
};

class Service {
 public:
  struct Route {
    const char* path;
    const char* method;  // GET or POST
    bool open;           // without a token too
    std::variant<Answer, CompletionCall> (Service::*handler)(std::string_view body) const;
  };

  // tokenizer_info: what /tokenizer_info answers.
  Service(ServedModel model, Json tokenizer_info, const Metrics& metrics);

  const ServedModel& model() const { return model_; }
  // Throws HttpError 404 for an unknown path.
  static const Route& route(std::string_view target);
  std::variant<Answer, CompletionCall> handle(const Route& route, std::string_view body) const {
    return (this->*route.handler)(body);
  }

 private:
  std::variant<Answer, CompletionCall> completions(std::string_view body) const;
  std::variant<Answer, CompletionCall> chat(std::string_view body) const;
  std::variant<Answer, CompletionCall> models(std::string_view) const;
  std::variant<Answer, CompletionCall> tokenize(std::string_view body) const;
  std::variant<Answer, CompletionCall> detokenize(std::string_view body) const;
  std::variant<Answer, CompletionCall> tokenizer_info(std::string_view) const;
  std::variant<Answer, CompletionCall> health(std::string_view) const;
  std::variant<Answer, CompletionCall> metrics(std::string_view) const;

  ServedModel model_;
  Json tokenizer_info_;
  const Metrics& metrics_;
  int64_t started_;  // seconds since 1970
};

// The tokens of a model's directory that have a role, and its chat template, as its tokenizer_config.json has
// them: {"eos_token", "bos_token", "pad_token", "chat_template"}, null for what is not there. Without that
// file, eos_token is the codec's end of text. directory: empty for none.
Json tokenizer_info_of(const std::string& directory, const TextCodec& codec);

}  // namespace wuneng::serving
