#include "data/tokenizer/tokenizer.h"

#include <algorithm>
#include <mutex>
#include <unordered_map>

#include "data/tokenizer/added_tokens.h"
#include "data/tokenizer/byte_level.h"
#include "data/tokenizer/byte_pairs.h"
#include "data/tokenizer/normalizer.h"
#include "data/tokenizer/pretokenizer.h"
#include "data/tokenizer/tokenizer_files.h"
#include "data/tokenizer/utf8.h"
#include "data/tokenizer/word_cache.h"
#include "runtime/error.h"

namespace wuneng {
namespace {

// Scratch memory and word cache of one call.
struct Scratch {
  std::string valid, normal;
  PretokenizerScratch pretokenizer;
  BytePairs::Scratch byte_pairs;
  WordCache cache;
};

// Pool of scratches: as many as the maximum number of concurrent calls; their word caches persist between
// calls.
class ScratchPool {
 public:
  std::unique_ptr<Scratch> take() {
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        auto scratch = std::move(free_.back());
        free_.pop_back();
        return scratch;
      }
    }
    return std::make_unique<Scratch>();
  }
  void give(std::unique_ptr<Scratch> scratch) {
    // Frees the memory of very large texts.
    if (scratch->valid.size() + scratch->normal.size() + scratch->byte_pairs.ids.size() > kKeep) return;
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(scratch));
  }

 private:
  static constexpr size_t kKeep = 16 << 20;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> free_;
};

struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return XXH3_64bits(text.data(), text.size()); }
};
using Ids = std::unordered_map<std::string, int32_t, TextHash, std::equal_to<>>;

Ids ids_of(const TokenizerFiles& files) {
  Ids ids;
  for (const auto& [token, id] : files.vocabulary) ids.emplace(token, id);
  for (const AddedToken& token : files.added) ids.emplace(token.content, token.id);
  return ids;
}

int32_t require_id(const Ids& ids, const std::string& token, const std::string& source,
                   std::string_view why) {
  const auto at = ids.find(token);
  require(at != ids.end(), "{}: expected the token \"{}\" in the vocabulary ({}), found none", source, token,
          why);
  return at->second;
}

std::array<int32_t, 256> byte_ids(const TokenizerFiles& files, const Ids& ids) {
  std::array<int32_t, 256> out;
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    out[byte] = require_id(ids, byte_level({&c, 1}), files.source, fmt::format("byte {:#04x}", byte));
  }
  return out;
}

std::vector<Merge> merges_of(const TokenizerFiles& files, const Ids& ids) {
  std::vector<Merge> merges;
  merges.reserve(files.merges.size());
  for (size_t rank = 0; rank < files.merges.size(); ++rank) {
    const auto& [left, right] = files.merges[rank];
    const auto id = [&](const std::string& token) {
      const auto at = ids.find(token);
      return at != ids.end() ? at->second
                             : require_id(ids, token, files.source, fmt::format("merge {}", rank));
    };
    merges.push_back({id(left), id(right), id(left + right)});
  }
  return merges;
}

}  // namespace

struct Tokenizer::Parts {
  explicit Parts(const TokenizerFiles& files)
      : added(files.added),
        ids(ids_of(files)),
        merges(merges_of(files, ids)),
        byte_pairs(byte_ids(files, ids), merges),
        ignore_merges(files.ignore_merges) {
    for (const auto& [token, id] : ids) {
      if (static_cast<size_t>(id) >= bytes.size()) bytes.resize(id + 1);
      require(bytes[id].empty(), "{}: expected one token with id {}, found two, one of them \"{}\"",
              files.source, id, token);
      bytes[id] = token_bytes(token);
    }
    special.resize(bytes.size());
    for (const AddedToken& token : files.added) special[token.id] = token.special;
    fingerprint = hash_all();
  }

  void encode_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const {
    Words words(nfc(piece, scratch.normal), scratch.pretokenizer);
    for (std::string_view word; words.next(word);) {
      const auto known = scratch.cache.find(word);
      if (known.size() == 1) {
        out.push_back(known[0]);
      } else if (!known.empty()) {
        out.insert(out.end(), known.begin(), known.end());
      } else {
        const size_t begin = out.size();
        encode_word(word, scratch, out);
        scratch.cache.add(word, std::span(out).subspan(begin));
      }
    }
  }

  void encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const {
    if (ignore_merges) {
      if (const auto at = ids.find(byte_level(word)); at != ids.end()) return out.push_back(at->second);
    }
    byte_pairs.encode(word, scratch.byte_pairs, out);
  }

  uint64_t hash_all() const {
    uint64_t hash = ignore_merges;
    const auto add = [&](const void* data, size_t size) { hash = XXH3_64bits_withSeed(data, size, hash); };
    for (const std::string& token : bytes) add(token.data(), token.size());
    add(merges.data(), merges.size() * sizeof merges[0]);
    for (const AddedToken& token : added.all()) {
      add(token.content.data(), token.content.size());
      add(&token.id, sizeof token.id);
      add(&token.special, sizeof token.special);
    }
    return hash;
  }

  AddedTokens added;
  Ids ids;
  std::vector<Merge> merges;
  BytePairs byte_pairs;
  bool ignore_merges;
  std::vector<std::string> bytes;  // by id; empty: no token
  std::vector<bool> special;       // by id
  uint64_t fingerprint = 0;
  mutable ScratchPool scratches;
};

Tokenizer Tokenizer::load(const std::string& directory) {
  return Tokenizer(std::make_shared<const Parts>(read_tokenizer_files(directory)));
}

void Tokenizer::encode(std::string_view text, std::vector<int32_t>& ids) const {
  std::unique_ptr<Scratch> scratch = parts_->scratches.take();
  parts_->added.split(
      replace_invalid_utf8(text, scratch->valid),
      [&](std::string_view piece) { parts_->encode_piece(piece, *scratch, ids); },
      [&](int32_t id) { ids.push_back(id); });
  parts_->scratches.give(std::move(scratch));
}

std::string_view Tokenizer::bytes_of(int32_t id) const {
  return id >= 0 && id < vocab_size() ? std::string_view(parts_->bytes[id]) : std::string_view();
}

bool Tokenizer::is_special(int32_t id) const { return id >= 0 && id < vocab_size() && parts_->special[id]; }

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string text, buffer;
  for (const int32_t id : ids)
    if (const std::string_view bytes = bytes_of(id); !bytes.empty() && !(skip_special && is_special(id)))
      text.append(bytes);
  return std::string(replace_invalid_utf8(text, buffer));
}

int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(parts_->bytes.size()); }

std::optional<int32_t> Tokenizer::id_of(std::string_view token) const {
  const auto at = parts_->ids.find(token);
  return at == parts_->ids.end() ? std::nullopt : std::optional(at->second);
}

uint64_t Tokenizer::fingerprint() const { return parts_->fingerprint; }

}  // namespace wuneng
