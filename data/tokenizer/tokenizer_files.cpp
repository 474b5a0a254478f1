#include "data/tokenizer/tokenizer_files.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "data/tokenizer/pretokenizer.h"
#include "runtime/error.h"
#include "runtime/file.h"
#include "runtime/json_depth.h"

namespace wuneng {
namespace {

using Json = nlohmann::json;

// A JSON value in an error message, truncated if it is long. Formatted lazily: the arguments of require() are
// evaluated for every merge, and the list of merges has megabytes.
struct Shown {
  const Json& value;
};
Shown shown(const Json& value) { return {value}; }

}  // namespace
}  // namespace wuneng

template <>
struct fmt::formatter<wuneng::Shown> : fmt::formatter<std::string> {
  template <class Context>
  auto format(const wuneng::Shown& shown, Context& context) const {
    std::string text = shown.value.dump(-1, ' ', false, wuneng::Json::error_handler_t::replace);
    if (text.size() > 200) text = text.substr(0, 200) + "...";
    return fmt::formatter<std::string>::format(text, context);
  }
};

namespace wuneng {
namespace {

namespace fs = std::filesystem;

// Limit of ids, since memory is proportional to the highest one; real vocabularies have fewer than 300,000.
constexpr int32_t kMostIds = 1 << 22;
static_assert(kMostIds == 4194304);  // as in the error messages

// A JSON value with its file and key, for error messages.
struct Value {
  const Json* json;
  const std::string* file;
  std::string key;

  Value operator[](const std::string& name) const {
    static const Json absent;
    require(json->is_object(), "{}: {}: expected an object, found {}", *file, key, shown(*json));
    const auto at = json->find(name);
    return {at == json->end() ? &absent : &*at, file, key.empty() ? name : key + "." + name};
  }
  Value operator[](size_t i) const { return {&(*json)[i], file, fmt::format("{}[{}]", key, i)}; }

  size_t size() const {
    require(json->is_array(), "{}: {}: expected a list, found {}", *file, key, shown(*json));
    return json->size();
  }
  template <class T>
  T get(const char* expected, bool matches) const {
    require(matches, "{}: {}: expected {}, found {}", *file, key, expected, shown(*json));
    return json->get<T>();
  }
  std::string text() const { return get<std::string>("a string", json->is_string()); }
  int32_t id() const {
    return get<int32_t>("a token's id below 4194304",
                        json->is_number_unsigned() && json->get<uint64_t>() < kMostIds);
  }
  // false if the key is absent or null.
  bool flag() const { return !json->is_null() && get<bool>("true or false", json->is_boolean()); }

  // Requires one of the values of Qwen2.5's tokenizer; null also matches an absent key.
  void expect(std::initializer_list<Json> allowed, const char* otherwise = "") const {
    if (std::find(allowed.begin(), allowed.end(), *json) != allowed.end()) return;
    std::vector<std::string> names;
    for (const Json& a : allowed) names.push_back(a.dump());
    fail("{}: {}: expected {} as in Qwen2.5's tokenizer, found {}{}", *file, key, fmt::join(names, " or "),
         shown(*json), otherwise);
  }
  void expect_keys(const std::unordered_set<std::string>& known) const {
    for (const auto& [name, value] : json->items())
      require(known.contains(name), "{}: {}{}{}: expected no such key in Qwen2.5's tokenizer, found {}",
              *file, key, key.empty() ? "" : ".", name, shown(value));
  }
};

Json parse(const std::string& file) {
  const std::string text = read_file(file);
  require(!json_too_deep(text), "{}: expected JSON nested at most {} deep, found deeper", file, kDeepestJson);
  try {
    return Json::parse(text);
  } catch (const Json::exception& e) {
    fail("{}: expected JSON: {}", file, e.what());
  }
}

AddedToken added_token(const Value& v, int32_t id) {
  // "normalized" may be absent from tokenizer_config.json; its default depends on the version that reads it.
  for (const char* flag : {"single_word", "lstrip", "rstrip"}) v[flag].expect({false, nullptr});
  v["normalized"].expect({false});
  AddedToken token{v["content"].text(), id, v["special"].flag()};
  require(!token.content.empty(), "{}: {}: expected a token of at least one byte", *v.file, v["content"].key);
  return token;
}

std::vector<std::pair<std::string, int32_t>> vocabulary(const Value& v) {
  require(v.json->is_object(), "{}: {}: expected an object of tokens and ids, found {}", *v.file,
          v.key.empty() ? "the file" : v.key, shown(*v.json));
  std::vector<std::pair<std::string, int32_t>> tokens;
  for (const auto& [token, id] : v.json->items())
    tokens.emplace_back(token, Value{&id, v.file, fmt::format("{}[{}]", v.key, Json(token).dump())}.id());
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

// Requires the components of the pipeline that this code implements.
void check_scheme(const Value& root) {
  root.expect_keys({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                    "post_processor", "decoder", "model"});
  root["version"].expect({"1.0", nullptr});
  root["truncation"].expect({nullptr});
  // transformers leaves here how it last filled up a batch, which changes no single text.
  if (!root["padding"].json->is_null()) root["padding"]["strategy"].expect({"BatchLongest"});
  root["normalizer"].expect({Json{{"type", "NFC"}}});

  const Value pre = root["pre_tokenizer"];
  pre["type"].expect({"Sequence"});
  const Value steps = pre["pretokenizers"];
  require(steps.size() == 2, "{}: {}: expected Split and ByteLevel, found {}", *root.file, steps.key,
          shown(*steps.json));
  steps[0].expect_keys({"type", "pattern", "behavior", "invert"});
  steps[0]["type"].expect({"Split"});
  steps[0]["pattern"].expect({Json{{"Regex", kQwenPattern}}});
  steps[0]["behavior"].expect({"Isolated"});
  steps[0]["invert"].expect({false});
  steps[1].expect_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  steps[1]["type"].expect({"ByteLevel"});
  steps[1]["add_prefix_space"].expect({false});
  steps[1]["use_regex"].expect({false});

  // ByteLevel as post-processor changes only offsets, which a TextCodec does not have. transformers 5 writes
  // a template that adds no tokens.
  const Value post = root["post_processor"];
  if (!post.json->is_null() && *post["type"].json != "ByteLevel") {
    post["type"].expect({nullptr, "ByteLevel", "TemplateProcessing"});
    post["single"].expect({Json::parse(R"([{"Sequence":{"id":"A","type_id":0}}])")}, ": it adds tokens");
  }
  root["decoder"]["type"].expect({"ByteLevel"});
}

TokenizerFiles read_tokenizer_json(const std::string& file) {
  const Json json = parse(file);
  const Value root{&json, &file, ""};
  check_scheme(root);
  const Value model = root["model"];
  model.expect_keys({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                     "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
  model["type"].expect({"BPE"});
  model["dropout"].expect({nullptr});
  model["unk_token"].expect({nullptr});
  model["continuing_subword_prefix"].expect({nullptr, ""});
  model["end_of_word_suffix"].expect({nullptr, ""});
  model["byte_fallback"].expect({false, nullptr});

  TokenizerFiles out;
  out.source = file;
  out.ignore_merges = model["ignore_merges"].flag();
  out.vocabulary = vocabulary(model["vocab"]);
  const Value merges = model["merges"];
  for (size_t i = 0; i < merges.size(); ++i) {
    const Value merge = merges[i];
    if (merge.json->is_string()) {
      out.merges.push_back(merge_of(merge.text(), fmt::format("{}: {}", file, merge.key)));
    } else {
      require(merge.size() == 2, "{}: {}: expected two tokens, found {}", file, merge.key,
              shown(*merge.json));
      out.merges.emplace_back(merge[0].text(), merge[1].text());
    }
  }
  if (const Value added = root["added_tokens"]; !added.json->is_null())
    for (size_t i = 0; i < added.size(); ++i) out.added.push_back(added_token(added[i], added[i]["id"].id()));
  return out;
}

std::vector<AddedToken> added_tokens_decoder(const Value& decoder) {
  require(decoder.json->is_object(), "{}: {}: expected an object of ids and added tokens, found {}",
          *decoder.file, decoder.key, shown(*decoder.json));
  std::vector<AddedToken> added;
  for (const auto& [name, token] : decoder.json->items()) {
    int32_t id = -1;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), id);
    require(error == std::errc() && end == name.data() + name.size() && id >= 0 && id < kMostIds,
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
  const Value config{&config_json, &config_file, ""};
  config["tokenizer_class"].expect({"Qwen2Tokenizer", "Qwen2TokenizerFast"});
  for (const char* flag : {"add_prefix_space", "add_bos_token", "add_eos_token", "split_special_tokens"})
    config[flag].expect({false, nullptr});

  TokenizerFiles out;
  out.source = vocab_file;
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
  const Value config{&json, &config_file, ""};
  for (const char* flag : {"add_prefix_space", "add_bos_token", "add_eos_token", "split_special_tokens"})
    config[flag].expect({false, nullptr});
  const Value decoder = config["added_tokens_decoder"];
  if (decoder.json->is_null()) return;
  for (const AddedToken& token : added_tokens_decoder(decoder)) {
    const bool same = std::any_of(files.added.begin(), files.added.end(), [&](const AddedToken& t) {
      return t.id == token.id && t.content == token.content && t.special == token.special;
    });
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

}  // namespace wuneng
