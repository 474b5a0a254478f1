#include "data/tokenizer/tokenizer_files.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <unordered_set>

#include "data/tokenizer/checked_json.h"
#include "runtime/error.h"
#include "runtime/file.h"
#include "runtime/json_depth.h"

namespace wuneng {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

Json parse(const std::string& file) {
  const std::string text = read_file(file);
  require(!json_too_deep(text), "{}: expected JSON nested at most {} deep, found deeper", file, kDeepestJson);
  try {
    return Json::parse(text);
  } catch (const Json::exception& e) {
    fail("{}: expected JSON: {}", file, e.what());
  }
}

AddedToken added_token(const CheckedJson& v, int32_t id) {
  // "normalized" may be absent from tokenizer_config.json; its default depends on the version that reads it.
  AddedToken token{v["content"].text(),      id,
                   v["special"].flag(),      v["single_word"].flag(),
                   v["lstrip"].flag(),       v["rstrip"].flag(),
                   v["normalized"].boolean()};
  require(!token.content.empty(), "{}: {}: expected a token of at least one byte", *v.file, v["content"].key);
  return token;
}

std::vector<std::pair<std::string, int32_t>> vocabulary(const CheckedJson& v) {
  require(v.json->is_object(), "{}: {}: expected an object of tokens and ids, found {}", *v.file,
          v.key.empty() ? "the file" : v.key, v.shown());
  std::vector<std::pair<std::string, int32_t>> tokens;
  for (const auto& [token, id] : v.json->items())
    tokens.emplace_back(token,
                        CheckedJson{&id, v.file, fmt::format("{}[{}]", v.key, Json(token).dump())}.id());
  return tokens;
}

// "left right", the form in merges.txt and older tokenizer.json.
std::pair<std::string, std::string> merge_of(std::string_view line, const std::string& where) {
  const size_t space = line.find(' ');
  require(
      space != line.npos && space > 0 && space + 1 < line.size() && line.find(' ', space + 1) == line.npos,
      "{}: expected a merge: two tokens and one space between them, found \"{}\"", where, line);
  return {std::string(line.substr(0, space)), std::string(line.substr(space + 1))};
}

TokenizerFiles read_tokenizer_json(const std::string& file) {
  const Json json = parse(file);
  const CheckedJson root{&json, &file, ""};
  root.expect_keys({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                    "post_processor", "decoder", "model"});
  root["version"].expect({"1.0", nullptr});
  root["truncation"].expect({nullptr});
  // transformers leaves here how it last filled up a batch, which changes no single text.
  if (!root["padding"].is_null()) root["padding"]["strategy"].expect({"BatchLongest"});
  const CheckedJson model = root["model"];
  model.expect_keys({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                     "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
  model["type"].expect({"BPE"});
  model["dropout"].expect({nullptr});
  model["continuing_subword_prefix"].expect({nullptr, ""});
  model["end_of_word_suffix"].expect({nullptr, ""});
  model["byte_fallback"].expect({false, nullptr});

  TokenizerFiles out;
  out.source = file;
  out.scheme = read_tokenizer_scheme(root);
  if (const CheckedJson unknown = model["unk_token"]; !unknown.is_null()) out.unknown = unknown.text();
  out.fuse_unknown = model["fuse_unk"].flag();
  out.ignore_merges = model["ignore_merges"].flag();
  out.vocabulary = vocabulary(model["vocab"]);
  const CheckedJson merges = model["merges"];
  for (size_t i = 0; i < merges.size(); ++i) {
    const CheckedJson merge = merges[i];
    if (merge.json->is_string()) {
      out.merges.push_back(merge_of(merge.text(), fmt::format("{}: {}", file, merge.key)));
    } else {
      require(merge.size() == 2, "{}: {}: expected two tokens, found {}", file, merge.key, merge.shown());
      out.merges.emplace_back(merge[0].text(), merge[1].text());
    }
  }
  if (const CheckedJson added = root["added_tokens"]; !added.is_null())
    for (size_t i = 0; i < added.size(); ++i) out.added.push_back(added_token(added[i], added[i]["id"].id()));
  return out;
}

// tokenizer_config.json's settings for what tokenizer.json says as well; some versions of transformers use
// the one, some the other.
void check_flags(const CheckedJson& config, const TokenizerFiles& files) {
  const TokenizerScheme& scheme = files.scheme;
  const std::pair<const char*, bool> flags[] = {{"add_prefix_space", scheme.steps.back().prefix_space},
                                                {"add_bos_token", !scheme.before.empty()},
                                                {"add_eos_token", !scheme.after.empty()},
                                                {"split_special_tokens", false}};
  for (const auto& [name, value] : flags) {
    const CheckedJson flag = config[name];
    require(flag.is_null() || flag.boolean() == value, "{}: {}: expected {} as in {}, found {}", *config.file,
            name, value, files.source, flag.shown());
  }
}

std::vector<AddedToken> added_tokens_decoder(const CheckedJson& decoder) {
  require(decoder.json->is_object(), "{}: {}: expected an object of ids and added tokens, found {}",
          *decoder.file, decoder.key, decoder.shown());
  std::vector<AddedToken> added;
  for (const auto& [name, token] : decoder.json->items()) {
    int32_t id = -1;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), id);
    require(error == std::errc() && end == name.data() + name.size() && id >= 0 && id < kMostTokenIds,
            "{}: {}: expected a token's id below 4194304 as key, found \"{}\"", *decoder.file, decoder.key,
            name);
    added.push_back(added_token(decoder[name], id));
  }
  return added;
}

// vocab.json and merges.txt do not contain the scheme; tokenizer_config.json has the tokenizer's class.
TokenizerFiles read_vocab_and_merges(const std::string& directory) {
  const std::string vocab_file = directory + "/vocab.json", merges_file = directory + "/merges.txt",
                    config_file = directory + "/tokenizer_config.json";
  const Json vocab_json = parse(vocab_file), config_json = parse(config_file);
  const CheckedJson config{&config_json, &config_file, ""};
  config["tokenizer_class"].expect(
      {"Qwen2Tokenizer", "Qwen2TokenizerFast", "GPT2Tokenizer", "GPT2TokenizerFast"});

  TokenizerFiles out;
  out.source = vocab_file;
  out.scheme = config["tokenizer_class"].text().starts_with("Qwen2")
                   ? qwen_scheme()
                   : gpt2_scheme(config["add_prefix_space"].flag());
  check_flags(config, out);
  out.vocabulary = vocabulary({&vocab_json, &vocab_file, ""});
  out.added = added_tokens_decoder(config["added_tokens_decoder"]);
  const std::string lines = read_file(merges_file);
  int64_t number = 0;
  for (size_t begin = 0; begin < lines.size();) {
    const size_t newline = std::min(lines.find('\n', begin), lines.size());
    std::string_view line = std::string_view(lines).substr(begin, newline - begin);
    begin = newline + 1;
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    // A merge may begin with '#' too, so only the version line is skipped.
    if (line.empty() || line.starts_with("#version")) continue;
    out.merges.push_back(merge_of(line, fmt::format("{}:{}", merges_file, number)));
  }
  return out;
}

// transformers uses the added tokens of both tokenizer_config.json and tokenizer.json, so the two must agree.
void check_config(const std::string& config_file, const TokenizerFiles& files) {
  const Json json = parse(config_file);
  const CheckedJson config{&json, &config_file, ""};
  check_flags(config, files);
  const CheckedJson decoder = config["added_tokens_decoder"];
  if (decoder.is_null()) return;
  for (const AddedToken& token : added_tokens_decoder(decoder)) {
    const bool same = std::find(files.added.begin(), files.added.end(), token) != files.added.end();
    require(same,
            "{}: {}.{}: expected an added token of {}, found \"{}\", which is missing or different there",
            config_file, decoder.key, token.id, files.source, token.content);
  }
}

// `tokenizers` ignores the ids of added tokens in the file and numbers them after the vocabulary; other ids
// in a file would be ambiguous.
void check_added_ids(const TokenizerFiles& files) {
  std::unordered_set<std::string_view> known;
  int32_t next = 0;
  for (const auto& [token, id] : files.vocabulary) next = std::max(next, id + 1);
  for (const AddedToken& token : files.added) {
    require(known.insert(token.content).second, "{}: added token \"{}\": expected once, found twice",
            files.source, token.content);
    const auto in_vocabulary = std::find_if(files.vocabulary.begin(), files.vocabulary.end(),
                                            [&](const auto& t) { return t.first == token.content; });
    const int32_t expected = in_vocabulary == files.vocabulary.end() ? next++ : in_vocabulary->second;
    require(token.id == expected, "{}: added token \"{}\": expected id {}, the next free one, found {}",
            files.source, token.content, expected, token.id);
  }
}

}  // namespace

TokenizerFiles read_tokenizer_files(const std::string& directory) {
  const std::string whole = directory + "/tokenizer.json", config = directory + "/tokenizer_config.json";
  TokenizerFiles files;
  if (fs::exists(whole)) {
    files = read_tokenizer_json(whole);
    if (fs::exists(config)) check_config(config, files);
  } else {
    require(fs::exists(directory + "/vocab.json"), "{}: expected tokenizer.json or vocab.json, found neither",
            directory);
    files = read_vocab_and_merges(directory);
  }
  std::sort(files.added.begin(), files.added.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  check_added_ids(files);
  return files;
}

// A token is written as its text, or as an object that has it.
std::optional<std::string> special_token(const std::string& directory, const std::string& key) {
  const std::string file = directory + "/tokenizer_config.json";
  if (!fs::exists(file)) return {};
  const Json json = parse(file);
  CheckedJson token = CheckedJson{&json, &file, ""}[key];
  if (token.json->is_object()) token = token["content"];
  if (token.is_null()) return {};
  return token.text();
}

}  // namespace wuneng
