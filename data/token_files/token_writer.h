// Writes token files (data/token_files/token_file.h), of any size in bounded memory: tokens go to the disk as
// they come, and so do lengths, from which the index is made at the end.
#pragma once
#include <cstdint>
#include <fstream>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/token_files/token_file.h"

namespace wuneng {

// One pair of files. Everything is written beside (".partial") and renamed by finish(): first .bin, last
// .idx, so an index that is there is whole and so are its tokens. Without finish() nothing is left behind.
class TokenWriter {
 public:
  TokenWriter(const std::string& prefix, TokenType type);
  ~TokenWriter();
  TokenWriter(const TokenWriter&) = delete;
  TokenWriter& operator=(const TokenWriter&) = delete;

  // One document of one sequence. Tokens that the type cannot hold are an error.
  void add(std::span<const int32_t> tokens);
  void finish();

  int64_t documents() const { return documents_; }
  int64_t tokens() const { return tokens_; }
  std::string bin() const { return prefix_ + ".bin"; }
  std::string idx() const { return prefix_ + ".idx"; }

 private:
  void write_index();
  std::string lengths() const { return prefix_ + ".lengths.partial"; }

  std::string prefix_;
  TokenType type_;
  std::ofstream bin_, lengths_;
  std::string buffer_;
  int64_t documents_ = 0, tokens_ = 0;
};

// Tokens with a mask of labels beside them where `masked`: finish() renames the mask before the tokens'
// index.
class MaskedTokenWriter {
 public:
  MaskedTokenWriter(const std::string& prefix, TokenType type, bool masked);
  // labels: 1 where the token has a loss, as long as tokens; not looked at without a mask.
  void add(std::span<const int32_t> tokens, std::span<const uint8_t> labels);
  void finish();

  int64_t documents() const { return tokens_.documents(); }
  int64_t tokens() const { return tokens_.tokens(); }

 private:
  std::string mask_prefix_;
  TokenWriter tokens_;
  std::optional<TokenWriter> mask_;
  std::vector<int32_t> widened_;
};

}  // namespace wuneng
