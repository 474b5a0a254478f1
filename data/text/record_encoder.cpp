#include "data/text/record_encoder.h"

#include <algorithm>

#include "runtime/error.h"

namespace wuneng {

const char* to_string(DataKind kind) {
  return kind == DataKind::text ? "text" : kind == DataKind::supervised ? "supervised" : "preference";
}

DataKind kind_of(const Record& record) {
  switch (record.kind) {
    case Record::Kind::text:
      return DataKind::text;
    case Record::Kind::preference:
      return DataKind::preference;
    default:
      return DataKind::supervised;
  }
}

void RecordEncoder::end(Tokens& tokens) const {
  if (tokens.ids.size() == codec_.before().size()) {  // no text, no document
    tokens = {};
    return;
  }
  tokens.ids.insert(tokens.ids.end(), codec_.after().begin(), codec_.after().end());
  if (end_ && (codec_.after().empty() || codec_.after().back() != *end_)) tokens.ids.push_back(*end_);
  tokens.loss_mask.resize(tokens.ids.size(), 1);
}

Tokens RecordEncoder::text(const std::string& text) const {
  Tokens out{{codec_.before().begin(), codec_.before().end()}, {}};
  codec_.encode(text, out.ids);
  out.loss_mask.assign(out.ids.size(), 1);
  end(out);
  return out;
}

// Prompt and answer are encoded separately, because at inference the model gets the tokens of the prompt
// alone, which the tokens before a text begin.
Tokens RecordEncoder::answer(const std::string& prompt, const std::string& answer) const {
  Tokens out{{codec_.before().begin(), codec_.before().end()}, {}};
  codec_.encode(prompt, out.ids);
  out.loss_mask.assign(out.ids.size(), 0);
  codec_.encode(answer, out.ids);
  out.loss_mask.resize(out.ids.size(), 1);
  end(out);
  return out;
}

Tokens RecordEncoder::chat(const std::vector<Message>& messages, const Json& tools) const {
  EncodedChat chat = codec_.encode_chat(to_json(messages), tools, options_);
  return {std::move(chat.ids), std::move(chat.assistant)};
}

// Assistant messages of the prompt have no loss.
Tokens RecordEncoder::chat_answer(const Record& record, const std::vector<Message>& answer) const {
  require(answer.front().role == "assistant",
          "expected an answer that begins with an assistant message, found role {}", answer.front().role);
  std::vector<Message> all = record.content.messages;
  all.insert(all.end(), answer.begin(), answer.end());
  Tokens out = chat(all, record.tools);
  // An answer is behind a special token, so the tokens before it are the same as those of the prompt alone,
  // unless the template writes messages by what follows them (Qwen3's thoughts).
  const Tokens prompt = chat(record.content.messages, record.tools);
  require(
      prompt.ids.size() <= out.ids.size() &&
          std::equal(prompt.ids.begin(), prompt.ids.end(), out.ids.begin()),
      "expected a prompt that its answer continues, found one that the chat template writes in another way "
      "where the answer follows: it ends with an assistant's message");
  std::fill_n(out.loss_mask.begin(), prompt.ids.size(), 0);
  return out;
}

std::vector<Tokens> RecordEncoder::encode(const Record& record) const {
  const bool pair = record.kind == Record::Kind::preference;
  require(pair == (kind_ == DataKind::preference), "expected {}, found {}",
          kind_ == DataKind::preference ? "a preference pair (prompt, chosen, rejected)"
                                        : fmt::format("a record for {} data", to_string(kind_)),
          pair ? "a preference pair" : "a record of another kind");
  require(!pure_ || kind_of(record) == kind_,
          "expected {} data as in the first record, found {}: --kind says which to make of both",
          to_string(kind_), to_string(kind_of(record)));
  const auto with = [&](const Content& answer_) {
    return record.content.is_chat() ? chat_answer(record, answer_.messages)
                                    : answer(record.content.text, answer_.text);
  };
  if (pair) return {with(record.chosen), with(record.rejected)};
  Tokens out = record.kind == Record::Kind::text   ? text(record.content.text)
               : record.kind == Record::Kind::chat ? chat(record.content.messages, record.tools)
                                                   : with(record.chosen);
  if (kind_ == DataKind::text) std::fill(out.loss_mask.begin(), out.loss_mask.end(), 1);
  require(std::find(out.loss_mask.begin(), out.loss_mask.end(), 1) != out.loss_mask.end() || out.ids.empty(),
          "expected at least one token with a loss, found no answer (an assistant message or a completion)");
  return {std::move(out)};
}

}  // namespace wuneng
