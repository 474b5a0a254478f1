// Tokenizes text and JSON lines to token files on all cores, in bounded memory.
#pragma once
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "data/text/record_encoder.h"
#include "data/text/text_source.h"
#include "data/token_files/token_file.h"

namespace wuneng {

struct TokenizeOptions {
  TextOptions text;
  // Of the output files, one for each document of a record: document i of one corresponds to document i of
  // the others.
  std::vector<std::string> prefixes;
  TokenType type = TokenType::i32;
  bool loss_mask = false;            // write <prefix>_mask as well
  int64_t batch = int64_t{8} << 20;  // bytes of text per batch; memory use is about ten times that
};

struct TokenizeProgress {
  int64_t bytes_read = 0, bytes_total = 0;  // of the files on disk (compressed)
  int64_t records = 0, tokens = 0;          // written, over all files
  int64_t loss_tokens = 0;                  // tokens with a loss
  int64_t empty = 0;                        // skipped records without a token
  int64_t bad_lines = 0;
  double seconds = 0;
  std::vector<std::string> first_bad;  // error messages with file and line
  std::set<std::string> others;        // members of records that were not used (Record::others)
  std::vector<std::string> left_out;   // see find_files
};

// Writes <prefix>.bin, .idx and .json (data/token_files/token_info.h), with documents in the order of the
// input for any number of threads. A record that the encoder rejects is a bad line. Calls `report` after
// every batch from this thread. Returns the final state; if it throws, no output file is left.
TokenizeProgress tokenize_files(const TokenizeOptions& options, const RecordEncoder& encoder,
                                const std::function<void(const TokenizeProgress&)>& report);

}  // namespace wuneng
