#include "data/tokenizer/text_codec.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "data/tokenizer/tokenizer_files.h"
#include "runtime/error.h"

namespace wuneng {

TextCodec TextCodec::load(const std::string& directory, const std::string& chat_template) {
  TextCodec codec;
  codec.tokenizer_ = Tokenizer::load(directory);
  codec.find_ends(directory);
  if (!chat_template.empty()) {
    codec.template_ = ChatTemplate::named(chat_template);
    return codec;
  }
  // Plain text needs no template, so a missing or unknown one is an error only when a chat is encoded.
  try {
    codec.template_ = ChatTemplate::load(directory);
  } catch (const Error& e) {
    codec.no_template_ = e.what();
  }
  return codec;
}

void TextCodec::find_ends(const std::string& directory) {
  const std::optional<std::string> eos = special_token(directory, "eos_token");
  if (eos)
    require(id_of(*eos).has_value(),
            "{}/tokenizer_config.json: eos_token: expected a token of the tokenizer, found \"{}\"", directory,
            *eos);
  for (const std::string_view name : {"<|endoftext|>", "<|end_of_text|>"})
    if (!end_of_text_) end_of_text_ = id_of(name);
  if (!end_of_text_ && eos) end_of_text_ = id_of(*eos);
  for (const std::optional<int32_t> id :
       {end_of_text_, id_of("<|im_end|>"), id_of("<|eot_id|>"), eos ? id_of(*eos) : std::nullopt})
    if (id && !ends(*id)) ends_.push_back(*id);
}

bool TextCodec::has_tokenizer(const std::string& directory) {
  return std::filesystem::exists(directory + "/tokenizer.json") ||
         std::filesystem::exists(directory + "/vocab.json");
}

void TextCodec::encode(std::string_view text, std::vector<int32_t>& ids) const {
  if (tokenizer_) return tokenizer_->encode(text, ids);
  ids.reserve(ids.size() + text.size());
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
}

std::vector<int32_t> TextCodec::encode_whole(std::string_view text) const {
  std::vector<int32_t> ids(before().begin(), before().end());
  encode(text, ids);
  ids.insert(ids.end(), after().begin(), after().end());
  return ids;
}

std::span<const int32_t> TextCodec::before() const {
  return tokenizer_ ? std::span(tokenizer_->before()) : std::span<const int32_t>();
}
std::span<const int32_t> TextCodec::after() const {
  return tokenizer_ ? std::span(tokenizer_->after()) : std::span<const int32_t>();
}

std::string_view TextCodec::bytes_of(int32_t id) const {
  if (tokenizer_) return tokenizer_->bytes_of(id);
  static const std::string all = [] {
    std::string s;
    for (int c = 0; c < 256; ++c) s += static_cast<char>(c);
    return s;
  }();
  return id >= 0 && id < 256 ? std::string_view(all).substr(id, 1) : std::string_view();
}

bool TextCodec::is_special(int32_t id) const { return tokenizer_ && tokenizer_->is_special(id); }

int32_t TextCodec::vocab_size() const { return tokenizer_ ? tokenizer_->vocab_size() : 256; }

std::string TextCodec::name() const {
  return tokenizer_ ? fmt::format("{:016x}", tokenizer_->fingerprint()) : "bytes";
}

std::optional<int32_t> TextCodec::id_of(std::string_view token) const {
  return tokenizer_ ? tokenizer_->id_of(token) : std::nullopt;
}

void TextCodec::check_chat_options(const ChatOptions& options) const {
  if (options.any()) encode_chat({{{"role", "user"}, {"content", "?"}}}, nullptr, options);
}

EncodedChat TextCodec::encode_chat(const nlohmann::ordered_json& messages,
                                   const nlohmann::ordered_json& tools, const ChatOptions& options) const {
  require(template_.has_value(), "a chat: {}", no_template_);
  return wuneng::encode_chat(*tokenizer_, *template_, messages, tools, options);
}

}  // namespace wuneng
