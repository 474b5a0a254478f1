#include "data/token_files/token_file.h"

#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <limits>
#include <type_traits>

#include "data/token_files/token_format.h"
#include "runtime/error.h"
#include "runtime/threads.h"

namespace wuneng {

using namespace token_format;

int64_t token_bytes(TokenType type) {
  return with_type(type, []<class T>() { return static_cast<int64_t>(sizeof(T)); });
}

const char* token_type_name(TokenType type) {
  switch (type) {
    case TokenType::u8:
      return "u8";
    case TokenType::i8:
      return "i8";
    case TokenType::i16:
      return "i16";
    case TokenType::i32:
      return "i32";
    case TokenType::i64:
      return "i64";
    case TokenType::u16:
      return "u16";
  }
  return "?";
}

namespace {

// The first i in [0, n) for which bad(i) holds, or n. On all threads; branch-free inner loop for
// vectorisation.
template <class Bad>
int64_t first_bad(int64_t n, const Bad& bad) {
  constexpr int64_t kBlock = 4096;
  std::atomic<int64_t> first{n};
  parallel_for((n + kBlock - 1) / kBlock, 64, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t from = block * kBlock, to = std::min(n, from + kBlock);
      bool any = false;
      for (int64_t i = from; i < to; ++i) any |= bad(i);
      if (!any) continue;
      int64_t i = from;
      while (!bad(i)) ++i;
      for (int64_t known = first; i < known && !first.compare_exchange_weak(known, i);) {
      }
      return;
    }
  });
  return first;
}

template <class T>
bool in_range(T token, int64_t limit) {
  return static_cast<int64_t>(token) >= 0 && static_cast<int64_t>(token) < limit;
}

}  // namespace

TokenFile TokenFile::open(const std::string& prefix) {
  TokenFile file;
  file.prefix_ = prefix;
  file.idx_ = MappedFile::open(prefix + ".idx");
  file.bin_ = MappedFile::open(prefix + ".bin");
  file.check_header();
  file.check_sequences();
  file.check_documents();
  return file;
}

std::optional<TokenFile> TokenFile::open_mask(const TokenFile& tokens) {
  const std::string prefix = tokens.prefix_ + "_mask";
  if (!std::filesystem::exists(prefix + ".idx")) return std::nullopt;
  TokenFile mask = open(prefix);
  require(mask.type_ == TokenType::u8, "{}.idx: expected a loss mask of type u8, found {}", prefix,
          token_type_name(mask.type_));
  require(mask.sequences_ == tokens.sequences_ && mask.documents_ == tokens.documents_,
          "{}.idx: expected the {} sequences and {} documents of {}.idx, found {} and {}", prefix,
          tokens.sequences_, tokens.documents_, tokens.prefix_, mask.sequences_, mask.documents_);
  const int64_t s = first_bad(mask.sequences_, [&](int64_t i) {
    return load<int32_t>(mask.lengths_, i) != load<int32_t>(tokens.lengths_, i);
  });
  require(s == mask.sequences_, "{}.idx: sequence {}: expected {} tokens as in {}.idx, found {}", prefix, s,
          s < mask.sequences_ ? tokens.sequence_length(s) : 0, tokens.prefix_,
          s < mask.sequences_ ? mask.sequence_length(s) : 0);
  require(std::memcmp(mask.documents_first_, tokens.documents_first_, 8 * (mask.documents_ + 1)) == 0,
          "{}.idx: expected the documents of {}.idx, found others", prefix, tokens.prefix_);
  return mask;
}

void TokenFile::check_header() {
  const std::string path = prefix_ + ".idx";
  require(idx_.size >= kHeaderBytes, "{}: expected at least the {} bytes of a header, found {}", path,
          kHeaderBytes, idx_.size);
  require(std::string_view(idx_.data, kMagic.size()) == kMagic,
          "{}: expected a Megatron index, which begins with MMIDIDX, found another file", path);
  const uint64_t version = load<uint64_t>(idx_.data + 9);
  require(version == kVersion, "{}: expected version {}, found {}", path, kVersion, version);
  const int code = static_cast<uint8_t>(idx_.data[17]);
  require((code >= 1 && code <= 5) || code == 8,
          "{}: expected tokens of type u8 (1), i8 (2), i16 (3), i32 (4), i64 (5) or u16 (8), found code {}{}",
          path, code, code == 6 || code == 7 ? ", a floating-point type" : "");
  type_ = static_cast<TokenType>(code);
  const uint64_t sequences = load<uint64_t>(idx_.data + 18), entries = load<uint64_t>(idx_.data + 26);
  const uint64_t room = static_cast<uint64_t>(idx_.size - kHeaderBytes);
  // Checks the counts against the file size before they are used.
  require(
      sequences <= room / 12 && entries >= 1 && entries <= room / 8 && 12 * sequences + 8 * entries == room,
      "{}: {} sequences and {} entries of the document index: expected {} bytes after the header, found {}",
      path, sequences, entries,
      sequences <= room / 12 && entries <= room / 8 ? std::to_string(12 * sequences + 8 * entries) : "more",
      room);
  sequences_ = static_cast<int64_t>(sequences);
  documents_ = static_cast<int64_t>(entries) - 1;
  lengths_ = idx_.data + kHeaderBytes;
  offsets_ = lengths_ + 4 * sequences_;
  documents_first_ = offsets_ + 8 * sequences_;
}

void TokenFile::check_sequences() const {
  const int64_t size = token_bytes(type_), n = sequences_;
  // Expected offset of sequence i: the end of sequence i - 1.
  const auto begin = [&](int64_t i) {
    return i == 0 ? 0 : sequence_offset(i - 1) + size * sequence_length(i - 1);
  };
  const int64_t bad = first_bad(n, [&](int64_t i) { return sequence_length(i) < 0; });
  if (bad < n)
    fail("{}.idx: sequence {}: expected a length of at least 0, found {}", prefix_, bad,
         sequence_length(bad));
  require(n == 0 || sequence_offset(0) == 0, "{}.idx: sequence 0: expected byte offset 0, found {}", prefix_,
          n == 0 ? 0 : sequence_offset(0));
  // Compares differences of offsets: in a damaged file sums could overflow.
  const int64_t gap = first_bad(n - 1, [&](int64_t i) {
    return static_cast<uint64_t>(sequence_offset(i + 1)) - static_cast<uint64_t>(sequence_offset(i)) !=
           static_cast<uint64_t>(size * sequence_length(i));
  });
  if (gap < n - 1)
    fail("{}.idx: sequence {}: expected byte offset {}, where sequence {} ends, found {}", prefix_, gap + 1,
         begin(gap + 1), gap, sequence_offset(gap + 1));
  require(begin(n) == bin_.size, "{}.bin: expected the {} bytes that {} sequences of {} take, found {}",
          prefix_, begin(n), n, token_type_name(type_), bin_.size);
}

void TokenFile::check_documents() const {
  const int64_t n = documents_;
  require(document_sequence(0) == 0 && document_sequence(n) == sequences_,
          "{}.idx: document index: expected it to begin with 0 and end with the number of sequences {}, "
          "found {} and {}",
          prefix_, sequences_, document_sequence(0), document_sequence(n));
  const int64_t bad =
      first_bad(n, [&](int64_t i) { return document_sequence(i + 1) < document_sequence(i); });
  if (bad < n)
    fail("{}.idx: document {}: expected to begin at sequence {} or later, found {}", prefix_, bad + 1,
         document_sequence(bad), document_sequence(bad + 1));
}

int64_t TokenFile::sequence_length(int64_t sequence) const { return load<int32_t>(lengths_, sequence); }
int64_t TokenFile::sequence_offset(int64_t sequence) const { return load<int64_t>(offsets_, sequence); }
int64_t TokenFile::document_sequence(int64_t document) const {
  return load<int64_t>(documents_first_, document);
}

int64_t TokenFile::document_begin(int64_t document) const {
  const int64_t sequence = document_sequence(document);
  return sequence == sequences_ ? tokens() : sequence_offset(sequence) / token_bytes(type_);
}

void TokenFile::read(int64_t begin, int64_t count, int64_t limit, int32_t* out) const {
  WUNENG_ASSERT(begin >= 0 && count >= 0 && begin + count <= tokens());
  WUNENG_ASSERT(limit <= int64_t{1} << 31);
  const bool good = with_type(type_, [&]<class T>() {
    const char* from = bin_.data + begin * token_bytes(type_);
    bool all = true;
    for (int64_t i = 0; i < count; ++i) {
      const T token = load<T>(from, i);
      all &= in_range(token, limit);
      out[i] = static_cast<int32_t>(token);
    }
    return all;
  });
  if (!good) check_range(begin, begin + count, limit);
}

void TokenFile::check_range(int64_t begin, int64_t end, int64_t limit) const {
  WUNENG_ASSERT(begin >= 0 && begin <= end && end <= tokens());
  with_type(type_, [&]<class T>() {
    if (std::is_unsigned_v<T> && static_cast<int64_t>(std::numeric_limits<T>::max()) < limit) return;
    const int64_t bad = begin + first_bad(end - begin, [&](int64_t i) {
                          return !in_range(load<T>(bin_.data, begin + i), limit);
                        });
    if (bad < end)
      fail("{}.bin: token {}: expected a number from 0 to {}, found {}", prefix_, bad, limit - 1,
           static_cast<int64_t>(load<T>(bin_.data, bad)));
  });
}

uint64_t TokenFile::fingerprint() const {
  // Lengths alone would not distinguish files of two tokenizers, so samples of the tokens are included; only
  // a few, because files may have terabytes.
  constexpr int64_t kSamples = 16, kSampleBytes = 4096;
  uint64_t value = XXH3_64bits(idx_.data, idx_.size);
  for (int64_t i = 0; i < kSamples && bin_.size > 0; ++i) {
    const int64_t begin = std::max<int64_t>(0, bin_.size - kSampleBytes) / (kSamples - 1) * i;
    value = XXH3_64bits_withSeed(bin_.data + begin, std::min(kSampleBytes, bin_.size - begin), value);
  }
  return value;
}

}  // namespace wuneng
