// Text and JSON lines into token files, with all cores and in bounded memory.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/text/record_encoder.h"
#include "data/text/text_source.h"
#include "data/token_files/token_file.h"

namespace wuneng {

struct TokenizeOptions {
  TextOptions text;
  // Of the files written, one for each of a record's documents: document i of one belongs to document i of
  // the others.
  std::vector<std::string> prefixes;
  TokenType type = TokenType::i32;
  bool labels = false;               // write <prefix>_mask as well
  int64_t batch = int64_t{8} << 20;  // bytes of text encoded together; memory is some ten times that
};

struct TokenizeProgress {
  int64_t bytes_read = 0, bytes_total = 0;  // of the files as they lie on the disk
  int64_t records = 0, tokens = 0;          // written, of all files together
  int64_t loss_mask = 0;                    // tokens that are labels
  int64_t empty = 0;                        // records without a token, left out
  int64_t bad_lines = 0;
  double seconds = 0;
  std::vector<std::string> first_bad;  // what was wrong, with file and line
};

// Writes <prefix>.bin, .idx and .json (data/token_files/token_info.h). Documents in the input's order,
// whatever the number of threads. An encoder's Error makes a bad line. `report` is called after every batch,
// from this thread. Returns the last state; where it throws, no file is left.
TokenizeProgress tokenize_files(const TokenizeOptions& options, const RecordEncoder& encoder,
                                const std::function<void(const TokenizeProgress&)>& report);

}  // namespace wuneng
