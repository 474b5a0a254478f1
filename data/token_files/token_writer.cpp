#include "data/token_files/token_writer.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <limits>

#include "data/token_files/token_format.h"
#include "runtime/error.h"

namespace wuneng {
namespace {

namespace fs = std::filesystem;
using namespace token_format;

template <class T>
void put(OutputFile& out, T value) {
  out.append(&value, sizeof value);
}

template <class T>
void append(std::string& buffer, std::span<const int32_t> tokens, const std::string& path) {
  const size_t before = buffer.size();
  buffer.resize(before + tokens.size() * sizeof(T));
  for (size_t i = 0; i < tokens.size(); ++i) {
    const T value = static_cast<T>(tokens[i]);
    require(static_cast<int64_t>(value) == tokens[i],
            "{}: token {} does not fit into {} bytes: expected {} to {}", path, tokens[i], sizeof(T),
            std::numeric_limits<T>::min(), std::numeric_limits<T>::max());
    std::memcpy(buffer.data() + before + i * sizeof(T), &value, sizeof value);
  }
}

}  // namespace

TokenWriter::TokenWriter(const std::string& prefix, TokenType type)
    : prefix_(prefix), type_(type), bin_(bin()), idx_(idx()), lengths_(prefix + ".lengths") {}

void TokenWriter::add(std::span<const int32_t> tokens) {
  require(tokens.size() <= size_t{std::numeric_limits<int32_t>::max()},
          "{}: document {}: expected at most {} tokens, found {}", bin(), documents_,
          std::numeric_limits<int32_t>::max(), tokens.size());
  buffer_.clear();
  with_type(type_, [&]<class T>() { append<T>(buffer_, tokens, bin()); });
  bin_.append(buffer_.data(), static_cast<int64_t>(buffer_.size()));
  put(lengths_, static_cast<int32_t>(tokens.size()));
  ++documents_;
  tokens_ += static_cast<int64_t>(tokens.size());
  for (const int32_t token : tokens) highest_ = std::max(highest_, token);
}

void TokenWriter::close() {
  bin_.close();
  write_index();
  idx_.close();
  closed_ = true;
}

void TokenWriter::finish() {
  if (!closed_) close();
  fs::remove(idx());  // an old index must never exist together with the new tokens
  bin_.commit();
  idx_.commit();
}

void TokenWriter::write_index() {
  idx_.append(kMagic.data(), kMagic.size());
  put(idx_, kVersion);
  put(idx_, static_cast<uint8_t>(type_));
  put(idx_, static_cast<uint64_t>(documents_));
  put(idx_, static_cast<uint64_t>(documents_ + 1));
  // Two passes over the lengths: the lengths themselves, then the offsets as their prefix sum.
  lengths_.flush();
  std::vector<int32_t> piece(1 << 16);
  const auto each_piece = [&](const auto& take) {
    for (int64_t at = 0; at < documents_;) {
      const int64_t n = std::min<int64_t>(documents_ - at, static_cast<int64_t>(piece.size()));
      lengths_.file().read(at * 4, piece.data(), n * 4);
      take(std::span(piece).first(n));
      at += n;
    }
  };
  each_piece([&](std::span<const int32_t> part) {
    idx_.append(part.data(), static_cast<int64_t>(part.size_bytes()));
  });
  int64_t offset = 0;
  each_piece([&](std::span<const int32_t> part) {
    for (const int32_t length : part) {
      put(idx_, offset);
      offset += length * token_bytes(type_);
    }
  });
  for (int64_t document = 0; document <= documents_; ++document) put(idx_, document);
}

MaskedTokenWriter::MaskedTokenWriter(const std::string& prefix, TokenType type, bool masked)
    : mask_prefix_(prefix + "_mask"), tokens_(prefix, type) {
  if (masked) mask_.emplace(mask_prefix_, TokenType::u8);
}

void MaskedTokenWriter::add(std::span<const int32_t> tokens, std::span<const uint8_t> loss_mask) {
  tokens_.add(tokens);
  if (!mask_) return;
  WUNENG_ASSERT(loss_mask.size() == tokens.size());
  widened_.assign(loss_mask.begin(), loss_mask.end());
  mask_->add(widened_);
}

void MaskedTokenWriter::close() {
  if (mask_) mask_->close();
  tokens_.close();
}

void MaskedTokenWriter::finish() {
  fs::remove(tokens_.idx());  // old tokens must never exist together with the new mask
  // A mask of an old file would be read as the mask of this one.
  if (mask_)
    mask_->finish();
  else
    for (const char* ending : {".idx", ".bin"}) fs::remove(mask_prefix_ + ending);
  tokens_.finish();
}

}  // namespace wuneng
