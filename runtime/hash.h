// XXH3 checksums of files.
#pragma once
#include <xxhash.h>

#include <cstdint>
#include <memory>
#include <string>

#include "runtime/error.h"

namespace wuneng {

// XXH3 (64 bits) of bytes that come in parts.
class Hash {
 public:
  Hash() : state_(XXH3_createState(), XXH3_freeState) {
    require(state_ && XXH3_64bits_reset(state_.get()) == XXH_OK, "XXH3: no memory for its state");
  }
  void add(const void* bytes, int64_t count) {
    require(XXH3_64bits_update(state_.get(), bytes, static_cast<size_t>(count)) == XXH_OK, "XXH3 failed");
  }
  uint64_t value() const { return XXH3_64bits_digest(state_.get()); }

 private:
  std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state_;
};

inline uint64_t hash_of(const void* bytes, int64_t count) {
  return XXH3_64bits(bytes, static_cast<size_t>(count));
}
inline std::string hash_text(uint64_t hash) { return fmt::format("{:016x}", hash); }

}  // namespace wuneng
