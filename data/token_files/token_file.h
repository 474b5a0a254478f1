// Token files in Megatron's format: <prefix>.bin holds the tokens, <prefix>.idx says where sequences and
// documents lie. Layout after megatron-core 0.16, core/datasets/indexed_dataset.py:
//
//   .idx, little-endian: "MMIDIDX\0\0" (9 bytes) | u64 version 1 | u8 type | u64 sequences | u64 documents +
//   1 |
//        i32 lengths[sequences] | i64 byte offsets[sequences] | i64 first sequence of each document, then the
//        number of sequences
//   .bin: the tokens, nothing else
//
// Supervised data says per token whether it has a loss. That is a second pair of files of the same
// shape, <prefix>_mask.bin/.idx, of type u8, 1 where the token counts as a label, so each pair by itself is
// an ordinary Megatron file and a reader that knows nothing of masks reads the tokens.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include "runtime/file.h"

namespace wuneng {

// The codes of the format that are whole numbers.
enum class TokenType : uint8_t { u8 = 1, i8 = 2, i16 = 3, i32 = 4, i64 = 5, u16 = 8 };
int64_t token_bytes(TokenType type);
const char* token_type_name(TokenType type);

// One pair of files, mapped: nothing is read before it is asked for but the index, which open() checks whole
// (16 bytes a sequence at memory's speed). Reading is pure, from any thread.
class TokenFile {
 public:
  // `prefix` is the path without .bin and .idx.
  static TokenFile open(const std::string& prefix);
  // <prefix>_mask where it is there; an error where its shape is not that of `tokens`.
  static std::optional<TokenFile> open_mask(const TokenFile& tokens);

  const std::string& prefix() const { return prefix_; }
  TokenType type() const { return type_; }
  int64_t tokens() const { return bin_.size / token_bytes(type_); }
  int64_t sequences() const { return sequences_; }
  int64_t documents() const { return documents_; }
  int64_t sequence_length(int64_t sequence) const;
  // The number of a document's first token; tokens() for the number after the last document.
  int64_t document_begin(int64_t document) const;
  // Tokens [begin, begin + count), each in [0, limit) or an error.
  void read(int64_t begin, int64_t count, int64_t limit, int32_t* out) const;
  // Of the index and of samples of the tokens: equal for equal files, wherever they lie.
  uint64_t fingerprint() const;

 private:
  void check_header();
  void check_sequences() const;
  void check_documents() const;
  int64_t sequence_offset(int64_t sequence) const;  // in bytes
  int64_t document_sequence(int64_t document) const;

  std::string prefix_;
  MappedFile idx_, bin_;
  TokenType type_ = TokenType::i32;
  int64_t sequences_ = 0, documents_ = 0;
  // The parts of idx_, none of them aligned.
  const char *lengths_ = nullptr, *offsets_ = nullptr, *documents_first_ = nullptr;
};

}  // namespace wuneng
