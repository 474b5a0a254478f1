// Token files in Megatron's format: <prefix>.bin holds the tokens, <prefix>.idx the positions of sequences
// and documents. Layout of megatron-core 0.16, core/datasets/indexed_dataset.py:
//
//   .idx, little-endian: "MMIDIDX\0\0" (9 bytes) | u64 version 1 | u8 type | u64 sequences
//        | u64 documents + 1 | i32 lengths[sequences] | i64 byte offsets[sequences]
//        | i64 first sequence of each document, then the number of sequences
//   .bin: only the tokens
//
// Supervised data has a loss mask per token: a second pair of files of the same shape,
// <prefix>_mask.bin/.idx, of type u8, 1 if the token has a loss. Each pair is an ordinary Megatron file, so
// readers without support for masks can read the tokens.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include "runtime/file.h"

namespace wuneng {

// The integer types of the format.
enum class TokenType : uint8_t { u8 = 1, i8 = 2, i16 = 3, i32 = 4, i64 = 5, u16 = 8 };
int64_t token_bytes(TokenType type);
const char* token_type_name(TokenType type);

// One pair of memory-mapped files. open() validates the whole index (16 bytes per sequence); tokens are read
// on demand. Reading is thread-safe.
class TokenFile {
 public:
  // `prefix` is the path without .bin and .idx.
  static TokenFile open(const std::string& prefix);
  // <prefix>_mask if it exists; an error if its shape differs from that of `tokens`.
  static std::optional<TokenFile> open_mask(const TokenFile& tokens);

  const std::string& prefix() const { return prefix_; }
  TokenType type() const { return type_; }
  int64_t tokens() const { return bin_.size / token_bytes(type_); }
  int64_t sequences() const { return sequences_; }
  int64_t documents() const { return documents_; }
  int64_t sequence_length(int64_t sequence) const;
  // Index of a document's first token; tokens() for document = documents().
  int64_t document_begin(int64_t document) const;
  // Tokens [begin, begin + count), each in [0, limit) or an error.
  void read(int64_t begin, int64_t count, int64_t limit, int32_t* out) const;
  // Throws an Error unless all of the tokens [begin, end) are in [0, limit). Reads them, on all threads.
  void check_range(int64_t begin, int64_t end, int64_t limit) const;
  // Hash of the index and of samples of the tokens; does not depend on the path.
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
  // The arrays in idx_, not aligned.
  const char *lengths_ = nullptr, *offsets_ = nullptr, *documents_first_ = nullptr;
};

}  // namespace wuneng
