// Decompression with zlib, libbz2, liblzma and libzstd.
#pragma once
#include <memory>
#include <string_view>

#include "data/text/file_kind.h"

namespace wuneng {

// A packed file is a sequence of members (gzip, bzip2), streams (xz) or frames (zstd), called members here.
class Unpacker {
 public:
  static std::unique_ptr<Unpacker> make(Packing packing);  // of any but none
  virtual ~Unpacker() = default;

  virtual const char* name() const = 0;
  // Whether zeros may follow a member: tapes and xz pad files with them.
  virtual bool padded() const { return false; }
  // Before each member.
  virtual void begin() = 0;
  // Moves on over the bytes that it takes from `packed`, and writes up to `most` bytes. An empty `packed`
  // asks for what it still holds. Throws an Error that says what is wrong with the bytes.
  struct Step {
    int64_t written = 0;
    bool ended = false;  // the member: the next byte belongs to another one
  };
  virtual Step step(std::string_view& packed, char* to, int64_t most) = 0;
};

}  // namespace wuneng
