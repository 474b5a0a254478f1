#include "data/tokenizer/tokenizer_scheme.h"

#include "data/tokenizer/split_pattern.h"

namespace wuneng {
namespace {

bool reads_nfc(const CheckedJson& v) {
  if (v.is_null()) return false;
  v["type"].expect({"NFC", "Sequence"});
  if (*v["type"].json == "NFC") {
    v.expect_keys({"type"});
    return true;
  }
  v.expect_keys({"type", "normalizers"});
  const CheckedJson parts = v["normalizers"];
  bool nfc = false;
  for (size_t i = 0; i < parts.size(); ++i) {
    parts[i]["type"].expect({"NFC", "Sequence"});
    nfc |= reads_nfc(parts[i]);
  }
  return nfc;
}

PretokenizerStep split(const CheckedJson& v) {
  v.expect_keys({"type", "pattern", "behavior", "invert"});
  v["behavior"].expect({"Isolated"});
  v["invert"].expect({false});
  const CheckedJson pattern = v["pattern"];
  pattern.expect_keys({"Regex", "String"});
  require(pattern.json->size() == 1, "{}: {}: expected Regex or String, found {}", *v.file, pattern.key,
          pattern.shown());
  const bool regex = pattern.json->contains("Regex");
  const std::string text = pattern[regex ? "Regex" : "String"].text();
  require(!text.empty(), "{}: {}: expected a pattern, found an empty one", *v.file, pattern.key);
  return {regex ? text : literal_pattern(text)};
}

PretokenizerStep byte_level_step(const CheckedJson& v) {
  v.expect_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  return {v["use_regex"].flag(true) ? std::string(kGpt2Pattern) : "", v["add_prefix_space"].flag()};
}

PretokenizerStep digits(const CheckedJson& v) {
  v.expect_keys({"type", "individual_digits"});
  return {std::string(kDigitsPattern) + (v["individual_digits"].flag() ? "" : "+")};
}

// Whether ByteLevel was the last step: text is bytes from there on, which only the vocabulary understands.
bool add_steps(const CheckedJson& v, std::vector<PretokenizerStep>& steps) {
  v["type"].expect({"Sequence", "Split", "Digits", "ByteLevel"});
  const std::string type = v["type"].text();
  if (type != "Sequence") {
    PretokenizerStep step = type == "Split" ? split(v) : type == "Digits" ? digits(v) : byte_level_step(v);
    // ByteLevel alone often changes only how the vocabulary is written.
    if (steps.empty() || step != PretokenizerStep{}) steps.push_back(std::move(step));
    return type == "ByteLevel";
  }
  v.expect_keys({"type", "pretokenizers"});
  const CheckedJson parts = v["pretokenizers"];
  bool bytes = false;
  for (size_t i = 0; i < parts.size(); ++i) {
    require(!bytes, "{}: {}: expected no step after ByteLevel, found {}", *v.file, parts[i].key,
            parts[i].shown());
    bytes = add_steps(parts[i], steps);
  }
  return bytes;
}

void add_template(const CheckedJson& v, TokenizerScheme& scheme) {
  v.expect_keys({"type", "single", "pair", "special_tokens"});
  const CheckedJson single = v["single"];
  bool behind = false;
  for (size_t i = 0; i < single.size(); ++i) {
    const CheckedJson piece = single[i];
    piece.expect_keys({"Sequence", "SpecialToken"});
    if (const CheckedJson sequence = piece["Sequence"]; !sequence.is_null()) {
      sequence["id"].expect({"A"});
      require(!behind, "{}: {}: expected the text once, found it twice", *v.file, single.key);
      behind = true;
      continue;
    }
    const std::string name = piece["SpecialToken"]["id"].text();
    const CheckedJson ids = v["special_tokens"][name]["ids"];
    for (size_t k = 0; k < ids.size(); ++k) (behind ? scheme.after : scheme.before).push_back(ids[k].id());
  }
  require(behind, "{}: {}: expected the text, found {}", *v.file, single.key, single.shown());
}

// ByteLevel as post-processor changes only offsets, which are not used here.
void add_post_processor(const CheckedJson& v, TokenizerScheme& scheme) {
  if (v.is_null()) return;
  v["type"].expect({"ByteLevel", "TemplateProcessing", "Sequence"});
  const std::string type = v["type"].text();
  if (type == "Sequence") {
    v.expect_keys({"type", "processors"});
    const CheckedJson parts = v["processors"];
    for (size_t i = 0; i < parts.size(); ++i) add_post_processor(parts[i], scheme);
  } else if (type == "TemplateProcessing") {
    require(scheme.before.empty() && scheme.after.empty(),
            "{}: {}: expected one template that adds tokens, found another", *v.file, v.key);
    add_template(v, scheme);
  }
}

}  // namespace

TokenizerScheme qwen_scheme() { return {true, {{std::string(kQwenPattern)}}, {}, {}}; }
TokenizerScheme gpt2_scheme(bool prefix_space) {
  return {false, {{std::string(kGpt2Pattern), prefix_space}}, {}, {}};
}

TokenizerScheme read_tokenizer_scheme(const CheckedJson& root) {
  TokenizerScheme scheme;
  scheme.nfc = reads_nfc(root["normalizer"]);
  const CheckedJson pre = root["pre_tokenizer"];
  require(add_steps(pre, scheme.steps),
          "{}: {}: expected ByteLevel, alone or at the end of a Sequence, found {}", *root.file, pre.key,
          pre.shown());
  add_post_processor(root["post_processor"], scheme);
  root["decoder"]["type"].expect({"ByteLevel"});
  return scheme;
}

}  // namespace wuneng
