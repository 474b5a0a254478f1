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
#include "data/tokenizer/tokenizer_scheme.h"
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

Ids vocabulary_of(const TokenizerFiles& files) {
  Ids ids;
  for (const auto& [token, id] : files.vocabulary) ids.emplace(token, id);
  return ids;
}

int32_t require_id(const Ids& ids, const std::string& token, const std::string& source,
                   std::string_view why) {
  const auto at = ids.find(token);
  require(at != ids.end(), "{}: expected the token \"{}\" in the vocabulary ({}), found none", source, token,
          why);
  return at->second;
}

// Vocabularies may lack bytes that no valid UTF-8 has, or that their training texts did not have.
std::array<int32_t, 256> byte_ids(const TokenizerFiles& files, const Ids& ids) {
  std::array<int32_t, 256> out;
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    const auto at = ids.find(byte_level({&c, 1}));
    out[byte] = at != ids.end()         ? at->second
                : files.unknown.empty() ? -1
                                        : require_id(ids, files.unknown, files.source, "model.unk_token");
    require(at != ids.end() || files.unknown.empty() || !files.fuse_unknown,
            "{}: model.fuse_unk: expected false, or a token for each byte, found none for byte {:#04x}",
            files.source, byte);
  }
  return out;
}

// Those found in the text as it is, or those found in normalised text.
std::vector<AddedToken> added_tokens(const TokenizerFiles& files, bool normalized) {
  std::vector<AddedToken> out;
  std::string buffer;
  for (const AddedToken& token : files.added) {
    if (token.normalized != normalized) continue;
    out.push_back(token);
    if (normalized && files.scheme.nfc) out.back().content = nfc(token.content, buffer);
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

struct Range {
  size_t begin, end;  // bytes
  bool operator==(const Range&) const = default;
};

// Where ranges of a text lie in its NFC. A character that NFC makes of characters on both sides of a border
// is in the range.
std::vector<Range> normalized_ranges(std::string_view text, const std::vector<Range>& ranges) {
  std::string whole_buffer, part_buffer;
  const std::string_view whole = nfc(text, whole_buffer);
  // The bytes that the border's two sides have in common with the whole: all before it, or less.
  const auto before = [&](size_t border, bool& exact) {
    const std::string_view part = nfc(text.substr(0, border), part_buffer);
    size_t at = std::mismatch(part.begin(), part.end(), whole.begin(), whole.end()).first - part.begin();
    exact = at == part.size();
    while (!exact && at > 0 && (static_cast<uint8_t>(whole[at]) & 0xc0) == 0x80) --at;
    return at;
  };
  std::vector<Range> out;
  for (const Range& r : ranges) {
    bool begins_at = false, ends_at = false;
    const size_t begin = before(r.begin, begins_at), end = before(r.end, ends_at);
    out.push_back({begin, ends_at ? end : end + 1});
  }
  return out;
}

}  // namespace

struct Tokenizer::Parts {
  explicit Parts(const TokenizerFiles& files)
      : scheme(files.scheme),
        added(added_tokens(files, false)),
        normalized(added_tokens(files, true)),
        pretokenizer(files.scheme.steps, files.source),
        ids(vocabulary_of(files)),
        merges(merges_of(files, ids)),
        byte_pairs(byte_ids(files, ids), merges) {
    for (const AddedToken& token : files.added) ids.emplace(token.content, token.id);
    for (const auto& [token, id] : ids) {
      if (static_cast<size_t>(id) >= bytes.size()) bytes.resize(id + 1);
      require(bytes[id].empty(), "{}: expected one token with id {}, found two, one of them \"{}\"",
              files.source, id, token);
      bytes[id] = token_bytes(token);
    }
    // What `tokenizers` finds in normalised text has that form in decoded text, too.
    for (const AddedToken& token : normalized.all()) bytes[token.id] = token_bytes(token.content);
    special.resize(bytes.size());
    for (const AddedToken& token : files.added) special[token.id] = token.special;
    if (files.ignore_merges)
      for (const auto& [token, id] : files.vocabulary)
        if (byte_level(bytes[id]) == token) words.emplace(bytes[id], id);
    fingerprint = hash_all(files);
  }

  // Appends the ids of a text without added tokens that are found before it is normalised.
  void encode_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const {
    const std::string_view normal = scheme.nfc ? nfc(piece, scratch.normal) : piece;
    const auto text_of = [&](std::string_view text) {
      for (Words words(pretokenizer, text, scratch.pretokenizer); words.next();)
        encode_cached(words.word(), scratch, out);
    };
    if (normalized.all().empty()) return text_of(normal);
    normalized.split(normal, text_of,
                     [&](const AddedToken& token, std::string_view) { out.push_back(token.id); });
  }

  // The same, and to `ends` the end of each token in the normalised piece, in bytes.
  void encode_piece(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out,
                    std::vector<size_t>& ends) const {
    const std::string_view normal = scheme.nfc ? nfc(piece, scratch.normal) : piece;
    size_t at = 0;
    normalized.split(
        normal,
        [&](std::string_view text) {
          at = text.data() - normal.data();
          for (Words words(pretokenizer, text, scratch.pretokenizer); words.next();) {
            const size_t begin = out.size(), size = words.word().size() - words.added();
            encode_cached(words.word(), scratch, out);
            add_ends(out, begin, at, size, words.added(), ends);
            at += size;
          }
        },
        [&](const AddedToken& token, std::string_view text) {
          out.push_back(token.id);
          ends.push_back(text.data() + text.size() - normal.data());
        });
  }

  void encode_cached(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const {
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

  void encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const {
    if (!words.empty())
      if (const auto at = words.find(word); at != words.end()) return out.push_back(at->second);
    byte_pairs.encode(word, scratch.byte_pairs, out);
  }

  // Of the tokens out[begin..] of a word of `size` bytes at `at`, the first `added` bytes of them not in it.
  void add_ends(const std::vector<int32_t>& out, size_t begin, size_t at, size_t size, size_t added_bytes,
                std::vector<size_t>& ends) const {
    size_t length = 0;
    for (size_t i = begin; i < out.size(); ++i) {
      length += bytes[out[i]].size();
      const size_t in_word = length - std::min(length, added_bytes);
      ends.push_back(at + (i + 1 == out.size() ? size : std::min(in_word, size)));
    }
  }

  // Qwen2.5's scheme and flags add nothing, so that its fingerprint is the one in token files made before
  // there were others.
  uint64_t hash_all(const TokenizerFiles& files) const {
    uint64_t hash = files.ignore_merges;
    const auto add = [&](const void* data, size_t size) { hash = XXH3_64bits_withSeed(data, size, hash); };
    for (const std::string& token : bytes) add(token.data(), token.size());
    add(merges.data(), merges.size() * sizeof merges[0]);
    for (const AddedTokens* tokens : {&added, &normalized})
      for (const AddedToken& token : tokens->all()) {
        add(token.content.data(), token.content.size());
        add(&token.id, sizeof token.id);
        add(&token.special, sizeof token.special);
        const std::array flags = {token.single_word, token.lstrip, token.rstrip, token.normalized};
        if (flags != std::array<bool, 4>{}) add(flags.data(), sizeof flags);
      }
    if (!files.unknown.empty()) add(files.unknown.data(), files.unknown.size());
    if (scheme == qwen_scheme()) return hash;
    add(&scheme.nfc, sizeof scheme.nfc);
    for (const PretokenizerStep& step : scheme.steps) {
      add(step.pattern.data(), step.pattern.size());
      add(&step.prefix_space, sizeof step.prefix_space);
    }
    for (const std::vector<int32_t>* around : {&scheme.before, &scheme.after})
      add(around->data(), around->size() * sizeof(int32_t));
    return hash;
  }

  TokenizerScheme scheme;
  AddedTokens added, normalized;  // found before and after the text is normalised
  Pretokenizer pretokenizer;
  Ids ids;
  std::vector<Merge> merges;
  BytePairs byte_pairs;
  Ids words;                       // with ignore_merges, the vocabulary: words that are not split
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
      [&](const AddedToken& token, std::string_view) { ids.push_back(token.id); });
  parts_->scratches.give(std::move(scratch));
}

void Tokenizer::encode_marked(std::span<const MarkedText> parts, std::vector<int32_t>& ids,
                              std::vector<uint8_t>& marked) const {
  std::string all, buffer;
  std::vector<Range> ranges;  // the marked bytes of `all`
  for (const MarkedText& part : parts) {
    const size_t begin = all.size();
    all += replace_invalid_utf8(part.text, buffer);
    if (part.marked && all.size() > begin) ranges.push_back({begin, all.size()});
  }
  std::unique_ptr<Scratch> scratch = parts_->scratches.take();
  std::vector<size_t> ends;
  size_t next = 0;  // the first range that reaches behind what is encoded
  // The ranges in all[begin, end), counted from begin.
  const auto ranges_in = [&](size_t begin, size_t end) {
    std::vector<Range> found;
    while (next < ranges.size() && ranges[next].end <= begin) ++next;
    for (size_t i = next; i < ranges.size() && ranges[i].begin < end; ++i)
      found.push_back({std::max(ranges[i].begin, begin) - begin, std::min(ranges[i].end, end) - begin});
    return found;
  };
  const auto piece_of = [&](std::string_view piece) {
    const size_t begin = piece.data() - all.data();
    const std::vector<Range> inside = ranges_in(begin, begin + piece.size());
    if (inside.empty() || inside == std::vector<Range>{{0, piece.size()}}) {
      parts_->encode_piece(piece, *scratch, ids);
      return marked.resize(ids.size(), !inside.empty());
    }
    ends.clear();
    parts_->encode_piece(piece, *scratch, ids, ends);
    const std::vector<Range> in_normal = parts_->scheme.nfc ? normalized_ranges(piece, inside) : inside;
    size_t from = 0;
    for (const size_t end : ends) {
      marked.push_back(std::any_of(in_normal.begin(), in_normal.end(),
                                   [&](const Range& r) { return r.begin < end && r.end > from; }));
      from = end;
    }
  };
  parts_->added.split(all, piece_of, [&](const AddedToken& token, std::string_view text) {
    ids.push_back(token.id);
    const size_t begin = text.data() - all.data();
    marked.push_back(!ranges_in(begin, begin + text.size()).empty());
  });
  parts_->scratches.give(std::move(scratch));
}

const std::vector<int32_t>& Tokenizer::before() const { return parts_->scheme.before; }
const std::vector<int32_t>& Tokenizer::after() const { return parts_->scheme.after; }

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
