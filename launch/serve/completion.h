// Completion: from the events of a request's sequences to OpenAI's answers: one JSON object, or server-sent
// events. It does no input or output.
#pragma once
#include <string>
#include <vector>

#include "data/text/exact_json.h"
#include "data/tokenizer/text_stream.h"
#include "launch/serve/request.h"

namespace wuneng::serving {

class Completion {
 public:
  // id: names the answer, which was begun at `created`, in seconds since 1970.
  Completion(CompletionCall call, const ServedModel& model, std::string id, int64_t created);

  // One a choice: those of the first prompt, of the second, ...
  std::vector<GenerationRequest> requests() const;

  bool streams() const { return call_.stream; }
  // Takes what came of a choice, and returns server-sent events where the call streams.
  std::string take(size_t choice, const GenerationEvent& event);
  bool ended(size_t choice) const { return choices_[choice].finish != nullptr; }  // it needs no more events
  bool done() const { return ended_ == choices_.size(); }

  std::string answer() const;        // JSON; when it is done and does not stream
  std::string begin_stream() const;  // server-sent events before all others, and after them
  std::string end_stream() const;

 private:
  struct Scored {
    ScoredToken token;
    bool has_logprob;    // a sequence's first token has none
    int64_t characters;  // of the choice's text before it
    size_t needs;        // bytes of generated text that are given out with it
  };
  struct Choice {
    TextStream text;       // of generated tokens
    TextStream positions;  // of all tokens, without stop strings
    int64_t characters = 0;
    size_t bytes = 0;  // of generated tokens
    bool begun = false;
    std::string given = {};           // text so far, where the call does not stream
    std::vector<Scored> scored = {};  // not given out yet
    const char* finish = nullptr;     // OpenAI's finish_reason
  };

  std::string begin(Choice& choice, size_t number, const std::vector<ScoredToken>& prompt);
  void add_scored(Choice& choice, const ScoredToken& token, std::string_view bytes, bool has_logprob,
                  bool generated);
  std::string name_of(int32_t token) const;
  Json logprobs_of(const std::vector<Scored>& tokens) const;  // null where the call has none
  Json chat_logprobs_of(const std::vector<Scored>& tokens) const;
  Json answer_of(const char* chat_object, const Json& choices) const;
  Json usage() const;
  std::string event_of(size_t number, const Json& text, const Json& logprobs, const char* finish) const;

  CompletionCall call_;
  const ServedModel& model_;
  std::string id_;
  int64_t created_;
  std::vector<Choice> choices_;
  size_t ended_ = 0;
  int64_t generated_ = 0;  // tokens of all choices
};

}  // namespace wuneng::serving
