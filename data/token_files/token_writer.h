// Writes token files (data/token_files/token_file.h) of any size in bounded memory: tokens and lengths are
// written as they come, and the index is made from the lengths at the end.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/token_files/token_file.h"
#include "runtime/file.h"

namespace wuneng {

// One pair of files. Written under temporary names (".partial") and renamed by finish(), .bin first and .idx
// last, so that an existing index implies complete files. Without finish() no file is left.
class TokenWriter {
 public:
  TokenWriter(const std::string& prefix, TokenType type);

  // Adds a document of one sequence. Throws if a token does not fit into the type.
  void add(std::span<const int32_t> tokens);
  // Writes all there is to the disk, under the temporary names.
  void close();
  void finish();  // closes before it renames

  int64_t documents() const { return documents_; }
  int64_t tokens() const { return tokens_; }
  int32_t highest() const { return highest_; }  // of the tokens; -1: there are none
  std::string bin() const { return prefix_ + ".bin"; }
  std::string idx() const { return prefix_ + ".idx"; }

 private:
  void write_index();

  std::string prefix_;
  TokenType type_;
  OutputFile bin_, idx_, lengths_;  // lengths_ is for this class alone, and never complete
  std::string buffer_;
  int64_t documents_ = 0, tokens_ = 0;
  int32_t highest_ = -1;
  bool closed_ = false;
};

// Tokens and, if `masked`, their loss mask; finish() renames the mask before the index of the tokens.
class MaskedTokenWriter {
 public:
  MaskedTokenWriter(const std::string& prefix, TokenType type, bool masked);
  // loss_mask: 1 if the token has a loss, of the size of tokens; ignored without a mask.
  void add(std::span<const int32_t> tokens, std::span<const uint8_t> loss_mask);
  void close();
  void finish();

  int64_t documents() const { return tokens_.documents(); }
  int64_t tokens() const { return tokens_.tokens(); }
  int32_t highest() const { return tokens_.highest(); }

 private:
  std::string mask_prefix_;
  TokenWriter tokens_;
  std::optional<TokenWriter> mask_;
  std::vector<int32_t> widened_;
};

}  // namespace wuneng
