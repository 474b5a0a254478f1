#include "model/generation/decoder_engine.h"

#include <algorithm>
#include <cmath>

#include "kernels/matmul.h"

namespace wuneng {
namespace {

// Sequences in one product of matrices: products of so few rows treat each row alone (kernels/matmul.h), so
// that a sequence's numbers do not depend on the others.
constexpr int64_t kTogether = kernels::kFewRows;
constexpr int64_t kScoredRows = 64;  // whose logits exist at the same time

const EngineOptions& checked(const EngineOptions& o) {
  const auto positive = [](int64_t value, const char* name) {
    require(value > 0, "generation: {} = {}: expected 1 or more", name, value);
  };
  positive(o.max_sequences, "max_sequences");
  positive(o.context_length, "context_length");
  positive(o.prefill_chunk, "prefill_chunk");
  return o;
}

}  // namespace

DecoderEngine::DecoderEngine(std::shared_ptr<Decoder> model, const EngineOptions& options)
    : options_(checked(options)), ranks_(std::move(model), options.max_sequences, options.context_length) {}

void DecoderEngine::add(int64_t number, const GenerationRequest& request) {
  const std::string where = fmt::format("request {}", number);
  const int64_t tokens = static_cast<int64_t>(request.prompt.size()), vocab = vocab_size();
  require(tokens > 0, "{}: prompt: expected at least one token, found none", where);
  require(tokens <= context_length(), "{}: prompt: expected at most {} tokens, found {}", where,
          context_length(), tokens);
  for (const auto& [list, name] :
       {std::pair{&request.prompt, "prompt"}, std::pair{&request.end_tokens, "end_tokens"}})
    for (const int32_t token : *list)
      require(token >= 0 && token < vocab, "{}: {}: expected tokens from 0 to {}, found {}", where, name,
              vocab - 1, token);
  require(request.max_tokens >= 0, "{}: max_tokens = {}: expected 0 or more", where, request.max_tokens);
  require(request.logprobs >= -1 && request.logprobs <= vocab, "{}: logprobs = {}: expected -1 to {}", where,
          request.logprobs, vocab);
  check_sampling(request.sampling, where);
  const auto has_number = [&](const auto& sequence) { return sequence->number == number; };
  require(std::none_of(waiting_.begin(), waiting_.end(), has_number) &&
              std::none_of(running_.begin(), running_.end(),
                           [&](const auto& running) { return has_number(running.second); }),
          "{}: expected a number that is not in use", where);
  waiting_.push_back(std::unique_ptr<Sequence>(
      new Sequence{number, request, Sampler(request.sampling, request.prompt, vocab)}));
}

void DecoderEngine::cancel(int64_t number) {
  std::erase_if(waiting_, [&](const auto& s) { return s->number == number; });
  for (const auto& [slot, sequence] : running_)
    if (sequence->number == number) return release(slot);
}

void DecoderEngine::release(int64_t slot) {
  ranks_.clear(slot);
  running_.erase(slot);
}

void DecoderEngine::admit() {
  for (int64_t slot = 0; slot < cache().slots() && !waiting_.empty(); ++slot) {
    if (running_.contains(slot)) continue;
    waiting_.front()->slot = slot;
    running_[slot] = std::move(waiting_.front());
    waiting_.pop_front();
  }
}

bool DecoderEngine::in_prompt(const Sequence& s) const {
  return cache().length(s.slot) < static_cast<int64_t>(s.request.prompt.size());
}

std::vector<GenerationEvent> DecoderEngine::step() {
  admit();
  std::vector<GenerationEvent> events;
  std::vector<Sequence*> decoding;
  Sequence* in_prefill = nullptr;
  for (const auto& [slot, s] : running_)
    if (!in_prompt(*s))
      decoding.push_back(s.get());
    else if (!in_prefill || s->number < in_prefill->number)
      in_prefill = s.get();
  for (size_t begin = 0; begin < decoding.size(); begin += kTogether) {
    const size_t end = std::min<size_t>(begin + kTogether, decoding.size());
    decode({decoding.begin() + begin, decoding.begin() + end}, events);
  }
  if (in_prefill) prefill(*in_prefill, events);
  return events;
}

void DecoderEngine::prefill(Sequence& s, std::vector<GenerationEvent>& events) {
  const std::vector<int32_t>& prompt = s.request.prompt;
  const int64_t total = static_cast<int64_t>(prompt.size()), first = cache().length(s.slot),
                count = std::min(options_.prefill_chunk, total - first), end = first + count;
  ranks_.extend({prompt.begin() + first, prompt.begin() + end}, {0, count}, {s.slot});
  if (s.request.prompt_logprobs) {
    if (first == 0) s.prompt_scores.push_back({prompt[0], 0});
    for (int64_t begin = 0; begin < count; begin += kScoredRows) {
      // The row of token t scores token t + 1.
      const int64_t rows = std::min({kScoredRows, count - begin, total - 1 - first - begin});
      if (rows <= 0) break;
      const Tensor logits = ranks_.logits(begin, begin + rows);
      for (int64_t i = 0; i < rows; ++i)
        s.prompt_scores.push_back(score(logits.f32() + i * vocab_size(), vocab_size(),
                                        prompt[first + begin + i + 1],
                                        std::max<int64_t>(0, s.request.logprobs)));
    }
  }
  if (end < total) return;
  std::vector<ScoredToken> scores = std::move(s.prompt_scores);
  if (s.request.max_tokens == 0 || total == context_length()) {
    events.push_back({.request = s.number, .prompt = std::move(scores), .finish = Finish::length});
    return release(s.slot);
  }
  const Tensor logits = ranks_.logits(count - 1, count);
  choose(s, logits.f32(), std::move(scores), events);
}

void DecoderEngine::decode(const std::vector<Sequence*>& sequences, std::vector<GenerationEvent>& events) {
  const int64_t n = static_cast<int64_t>(sequences.size());
  std::vector<int32_t> tokens;
  std::vector<int64_t> documents = {0}, slots;
  for (int64_t i = 0; i < n; ++i) {
    tokens.push_back(sequences[i]->last);
    documents.push_back(i + 1);
    slots.push_back(sequences[i]->slot);
  }
  ranks_.extend(tokens, documents, slots);
  const Tensor logits = ranks_.logits(0, n);
  for (int64_t i = 0; i < n; ++i) choose(*sequences[i], logits.f32() + i * vocab_size(), {}, events);
}

void DecoderEngine::choose(Sequence& s, const float* logits, std::vector<ScoredToken> prompt,
                           std::vector<GenerationEvent>& events) {
  require(std::all_of(logits, logits + vocab_size(), [](float x) { return std::isfinite(x); }),
          "request {}: expected finite logits, found others after {} tokens", s.number,
          cache().length(s.slot));
  const int32_t token = s.sampler(logits);
  GenerationEvent event{.request = s.number, .prompt = std::move(prompt)};
  event.token =
      s.request.logprobs < 0 ? ScoredToken{token} : score(logits, vocab_size(), token, s.request.logprobs);
  s.last = token;
  ++s.generated;
  const auto& ends = s.request.end_tokens;
  if (std::find(ends.begin(), ends.end(), token) != ends.end())
    event.finish = Finish::end_token;
  else if (s.generated == s.request.max_tokens ||
           static_cast<int64_t>(s.request.prompt.size()) + s.generated == context_length())
    event.finish = Finish::length;
  const bool finished = event.finish != Finish::none;
  events.push_back(std::move(event));
  if (finished) release(s.slot);
}

}  // namespace wuneng
