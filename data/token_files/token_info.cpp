#include "data/token_files/token_info.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "runtime/error.h"
#include "runtime/file.h"

namespace wuneng {

void write_token_info(const std::string& prefix, const TokenInfo& info) {
  nlohmann::ordered_json json = {
      {"tokenizer", info.tokenizer}, {"vocab_size", info.vocab_size}, {"kind", info.kind}};
  if (!info.pair.empty()) json["pair"] = info.pair;
  json["tokens"] = info.tokens;
  json["highest_token"] = info.highest;
  json["sources"] = info.sources;
  write_file_durably(prefix + ".json", json.dump(2) + "\n");
}

std::optional<TokenInfo> read_token_info(const std::string& prefix) {
  const std::string path = prefix + ".json";
  if (!std::filesystem::exists(path)) return std::nullopt;
  try {
    const auto json = nlohmann::json::parse(read_file(path));
    return TokenInfo{json.at("tokenizer"),
                     json.at("vocab_size"),
                     json.at("kind"),
                     json.value("pair", ""),
                     json.value("sources", std::vector<std::string>()),
                     json.value("tokens", int64_t{-1}),
                     json.value("highest_token", int64_t{-1})};
  } catch (const nlohmann::json::exception& e) {
    fail("{}: expected {{\"tokenizer\": .., \"vocab_size\": .., \"kind\": ..}}: {}", path, e.what());
  }
}

bool describes(const TokenInfo& info, const std::string& prefix, const std::string& bin, int64_t tokens) {
  namespace fs = std::filesystem;
  return info.tokens == tokens && fs::last_write_time(bin) <= fs::last_write_time(prefix + ".json");
}

}  // namespace wuneng
