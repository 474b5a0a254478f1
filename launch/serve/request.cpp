#include "launch/serve/request.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <random>

#include "data/text/members.h"
#include "data/text/message.h"
#include "data/text/shown_json.h"
#include "launch/serve/http_error.h"

namespace wuneng::serving {
namespace {

constexpr int64_t kMostLogprobs = 20, kMostChoices = 128;
constexpr size_t kMostStops = 32, kLongestStop = 1000;  // bytes
constexpr int64_t kMostMembers = 10000;  // of a body: an object is searched for each of its members

// Colons outside strings.
int64_t count_members(std::string_view json) {
  int64_t count = 0;
  for (size_t i = 0; i < json.size(); ++i)
    if (json[i] == '"')
      for (++i; i < json.size() && json[i] != '"'; ++i) i += json[i] == '\\';
    else
      count += json[i] == ':';
  return count;
}

Json parse_body(std::string_view body) {
  const int64_t members = count_members(body);
  require(members <= kMostMembers, "request body: expected at most {} members, found {}", kMostMembers,
          members);
  Json json = parse_exact_json(body, "request body");
  require(json.is_object(), "request body: expected an object, found {}", json.type_name());
  return json;
}

// The members of a body by type. Absent and null are the same.
class Fields {
 public:
  explicit Fields(const Json& body) : members_(body, "request body", Members::not_ignorable()) {}

  const Json* find(const char* name) { return members_.find(name); }

  std::optional<bool> flag(const char* name) {
    const Json* value = find(name);
    if (!value) return {};
    require_member(value->is_boolean(), name, "expected true or false, found {}", ShownJson{value});
    return value->get<bool>();
  }
  std::optional<int64_t> integer(const char* name, int64_t least, int64_t most) {
    const Json* value = find(name);
    if (!value) return {};
    const bool whole = value->is_number_integer() &&
                       !(value->is_number_unsigned() && value->get<uint64_t>() > uint64_t{INT64_MAX});
    require_member(whole && value->get<int64_t>() >= least && value->get<int64_t>() <= most, name,
                   "expected a whole number from {} to {}, found {}", least, most, ShownJson{value});
    return value->get<int64_t>();
  }
  std::optional<double> number(const char* name, double least, double most) {
    const Json* value = find(name);
    if (!value) return {};
    require_member(value->is_number() && value->get<double>() >= least && value->get<double>() <= most, name,
                   "expected a number from {} to {}, found {}", least, most, ShownJson{value});
    return value->get<double>();
  }
  std::optional<std::string> text(const char* name) {
    const Json* value = find(name);
    if (!value) return {};
    require_member(value->is_string(), name, "expected a string, found {}", ShownJson{value});
    return value->get<std::string>();
  }
  // A member that may stand there with the value that changes nothing.
  void only(const char* name, const Json& neutral) {
    const Json* value = find(name);
    require_member(!value || *value == neutral, name, "only {} is supported, found {}", neutral.dump(),
                   ShownJson{value});
  }
  void refuse_others() const {
    for (const std::string& name : members_.others())
      require_member(false, name, "not a member that is known or supported here");
  }

 private:
  Members members_;
};

std::vector<int32_t> read_ids(const Json& list, const std::string& name, const ServedModel& model) {
  require_member(list.is_array(), name, "expected a list of token ids, found {}", list.type_name());
  std::vector<int32_t> out;
  for (const Json& id : list) {
    const bool whole = id.is_number_unsigned() || (id.is_number_integer() && id.get<int64_t>() >= 0);
    require_member(whole && id.get<uint64_t>() < static_cast<uint64_t>(model.vocab_size), name,
                   "expected token ids from 0 to {}, found {}", model.vocab_size - 1, ShownJson{&id});
    out.push_back(id.get<int32_t>());
  }
  return out;
}

std::vector<int32_t> encode(const Json& text, bool add_special_tokens, const ServedModel& model) {
  if (add_special_tokens) return model.codec.encode_whole(text.get_ref<const std::string&>());
  std::vector<int32_t> ids;
  model.codec.encode(text.get_ref<const std::string&>(), ids);
  return ids;
}

// A string, a list of strings, a list of token ids, or a list of such lists.
void read_prompts(const Json* prompt, bool special, const ServedModel& model, CompletionCall& call) {
  require_member(prompt != nullptr, "prompt", "expected a text, token ids, or a list of them, found none");
  const auto add = [&](const Json& one) {
    const bool text = one.is_string();
    call.prompts.push_back(text ? encode(one, special, model) : read_ids(one, "prompt", model));
    call.added.push_back(text && special ? model.codec.before().size() : 0);
  };
  if (prompt->is_string()) return add(*prompt);
  require_member(prompt->is_array() && !prompt->empty(), "prompt",
                 "expected a text, token ids, or a list of them, found {}", ShownJson{prompt});
  if (prompt->front().is_number()) return add(*prompt);
  for (const Json& one : *prompt) add(one);
}

std::vector<std::string> read_stops(const Json* stop) {
  if (!stop) return {};
  std::vector<std::string> out;
  for (const Json& one : stop->is_array() ? *stop : Json::array({*stop})) {
    require_member(one.is_string() && !one.get_ref<const std::string&>().empty() &&
                       one.get_ref<const std::string&>().size() <= kLongestStop,
                   "stop", "expected strings of 1 to {} bytes, found {}", kLongestStop, ShownJson{&one});
    out.push_back(one);
  }
  require_member(out.size() <= kMostStops, "stop", "expected at most {} strings, found {}", kMostStops,
                 out.size());
  return out;
}

void check_model(Fields& fields, const ServedModel& model) {
  const std::string name = fields.text("model").value_or(model.name);
  if (name != model.name)
    throw HttpError(404, fmt::format("model: this server has \"{}\", found \"{}\"", model.name, name),
                    "model", "model_not_found");
}

uint64_t any_seed() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

Sampling read_sampling(Fields& fields, int64_t vocab) {
  Sampling s;
  s.temperature = fields.number("temperature", 0, 100).value_or(1);
  s.top_p = fields.number("top_p", 0, 1).value_or(1);
  require_member(s.top_p > 0, "top_p", "expected more than 0, found 0");
  s.top_k = std::max<int64_t>(0, fields.integer("top_k", -1, INT32_MAX).value_or(0));  // vLLM has -1 for all
  s.top_k = std::min(s.top_k, vocab);
  s.min_p = fields.number("min_p", 0, 1).value_or(0);
  s.repetition_penalty = fields.number("repetition_penalty", 0.01, 100).value_or(1);
  const auto seed = fields.integer("seed", INT64_MIN, INT64_MAX);
  s.seed = seed ? static_cast<uint64_t>(*seed) : any_seed();
  return s;
}

// What completions of prompts and of chats share.
void read_common(Fields& fields, const ServedModel& model, CompletionCall& call) {
  check_model(fields, model);
  call.choices = fields.integer("n", 1, kMostChoices).value_or(1);
  call.stream = fields.flag("stream").value_or(false);
  if (const Json* options = fields.find("stream_options")) {
    require_member(call.stream, "stream_options", "expected it with \"stream\": true alone");
    require_member(options->is_object(), "stream_options", "expected an object, found {}",
                   ShownJson{options});
    Fields inner(*options);
    call.include_usage = inner.flag("include_usage").value_or(false);
    inner.only("include_obfuscation", false);
    inner.refuse_others();
  }
  call.stops = read_stops(fields.find("stop"));
  call.sampling = read_sampling(fields, model.vocab_size);
  fields.only("presence_penalty", 0);
  fields.only("frequency_penalty", 0);
  fields.only("logit_bias", Json::object());
  fields.find("user");  // who asks; it does not change the answer
}

void check_lengths(const std::optional<int64_t>& max_tokens, const char* name, const ServedModel& model,
                   CompletionCall& call) {
  const int64_t sequences = std::ssize(call.prompts) * call.choices;
  require_member(sequences <= model.most_sequences, "n",
                 "expected at most {} sequences (prompts times n) in a request, found {}",
                 model.most_sequences, sequences);
  for (size_t i = 0; i < call.prompts.size(); ++i) {
    const int64_t tokens = std::ssize(call.prompts[i]);
    require_member(tokens > 0, "prompt", "expected at least one token in each, found none in number {}", i);
    if (tokens + call.max_tokens > model.context_length)
      throw HttpError(
          400,
          fmt::format("prompt: expected at most {} tokens, the context's length, found {} and {} = {}",
                      model.context_length, tokens, name, call.max_tokens),
          "prompt", "context_length_exceeded");
  }
  if (!max_tokens && call.chat) call.max_tokens = model.context_length - std::ssize(call.prompts[0]);
}

}  // namespace

CompletionCall read_completion_call(std::string_view body, const ServedModel& model) {
  const Json json = parse_body(body);
  Fields fields(json);
  CompletionCall call;
  read_common(fields, model, call);
  const bool special = fields.flag("add_special_tokens").value_or(true);
  read_prompts(fields.find("prompt"), special, model, call);
  call.echo = fields.flag("echo").value_or(false);
  call.logprobs = fields.integer("logprobs", 0, kMostLogprobs).value_or(-1);
  const auto max_tokens = fields.integer("max_tokens", 0, INT32_MAX);
  call.max_tokens = max_tokens.value_or(16);
  fields.only("best_of", call.choices);
  fields.only("suffix", "");
  fields.refuse_others();
  check_lengths(max_tokens, "max_tokens", model, call);
  return call;
}

CompletionCall read_chat_call(std::string_view body, const ServedModel& model) {
  const Json json = parse_body(body);
  Fields fields(json);
  CompletionCall call;
  call.chat = true;
  read_common(fields, model, call);
  const Json* messages = fields.find("messages");
  require_member(messages && messages->is_array() && !messages->empty(), "messages",
                 "expected a list of at least one message, found {}", ShownJson{messages});
  const bool logprobs = fields.flag("logprobs").value_or(false);
  const auto top = fields.integer("top_logprobs", 0, kMostLogprobs);
  require_member(!top || logprobs, "top_logprobs", "expected it with \"logprobs\": true alone");
  if (logprobs) call.logprobs = top.value_or(0);
  auto max_tokens = fields.integer("max_completion_tokens", 1, INT32_MAX);
  const auto older = fields.integer("max_tokens", 1, INT32_MAX);
  require_member(!max_tokens || !older, "max_tokens", "expected it or max_completion_tokens, found both");
  if (!max_tokens) max_tokens = older;
  call.max_tokens = max_tokens.value_or(1);
  fields.only("response_format", {{"type", "text"}});
  fields.only("tool_choice", "none");
  fields.only("parallel_tool_calls", true);
  fields.only("modalities", {"text"});
  fields.only("store", false);
  ChatOptions options = model.chat_options;
  options.add_generation_prompt = true;
  if (const Json* variables = fields.find("chat_template_kwargs")) {
    require_member(variables->is_object(), "chat_template_kwargs", "expected an object, found {}",
                   ShownJson{variables});
    Fields inner(*variables);
    if (const auto thinking = inner.flag("enable_thinking")) options.enable_thinking = thinking;
    if (const auto date = inner.text("date_string")) options.date_string = date;
    inner.refuse_others();
  }
  fields.refuse_others();
  call.prompts = {model.codec
                      .encode_chat(to_json(read_messages(*messages, "messages", Members::not_ignorable())),
                                   nullptr, options)
                      .ids};
  check_lengths(max_tokens, "max_tokens", model, call);
  return call;
}

std::vector<int32_t> read_tokenize_call(std::string_view body, const ServedModel& model) {
  const Json json = parse_body(body);
  Fields fields(json);
  check_model(fields, model);
  const Json* prompt = fields.find("prompt");
  require_member(prompt && prompt->is_string(), "prompt", "expected a text, found {}", ShownJson{prompt});
  const bool special = fields.flag("add_special_tokens").value_or(true);
  fields.refuse_others();
  return encode(*prompt, special, model);
}

std::vector<int32_t> read_detokenize_call(std::string_view body, const ServedModel& model) {
  const Json json = parse_body(body);
  Fields fields(json);
  check_model(fields, model);
  const Json* tokens = fields.find("tokens");
  require_member(tokens != nullptr, "tokens", "expected a list of token ids, found none");
  fields.refuse_others();
  return read_ids(*tokens, "tokens", model);
}

}  // namespace wuneng::serving
