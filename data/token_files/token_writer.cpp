#include "data/token_files/token_writer.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>

#include "data/token_files/token_format.h"
#include "runtime/error.h"

namespace wuneng {
namespace {

namespace fs = std::filesystem;
using namespace token_format;

void check(const std::ofstream& out, const std::string& path) {
  require(out.good(), "{}: cannot be written: {}", path, std::strerror(errno));
}

void open(std::ofstream& out, const std::string& path) {
  out.open(path, std::ios::binary | std::ios::trunc);
  check(out, path);
}

void close(std::ofstream& out, const std::string& path) {
  out.close();
  check(out, path);
}

template <class T>
void put(std::ofstream& out, T value) {
  out.write(reinterpret_cast<const char*>(&value), sizeof value);
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

TokenWriter::TokenWriter(const std::string& prefix, TokenType type) : prefix_(prefix), type_(type) {
  open(bin_, bin() + ".partial");
  open(lengths_, lengths());
}

TokenWriter::~TokenWriter() {
  std::error_code ignored;
  for (const std::string& path : {bin() + ".partial", idx() + ".partial", lengths()})
    fs::remove(path, ignored);
}

void TokenWriter::add(std::span<const int32_t> tokens) {
  require(tokens.size() <= size_t{std::numeric_limits<int32_t>::max()},
          "{}: document {}: expected at most {} tokens, found {}", bin(), documents_,
          std::numeric_limits<int32_t>::max(), tokens.size());
  buffer_.clear();
  with_type(type_, [&]<class T>() { append<T>(buffer_, tokens, bin()); });
  bin_.write(buffer_.data(), static_cast<std::streamsize>(buffer_.size()));
  put(lengths_, static_cast<int32_t>(tokens.size()));
  check(bin_, bin() + ".partial");
  check(lengths_, lengths());
  ++documents_;
  tokens_ += static_cast<int64_t>(tokens.size());
  for (const int32_t token : tokens) highest_ = std::max(highest_, token);
}

void TokenWriter::close() {
  wuneng::close(bin_, bin() + ".partial");
  wuneng::close(lengths_, lengths());
  write_index();
  sync_path(bin() + ".partial");
  sync_path(idx() + ".partial");
  closed_ = true;
}

void TokenWriter::finish() {
  if (!closed_) close();
  fs::remove(idx());  // an old index must never exist together with the new tokens
  fs::rename(bin() + ".partial", bin());
  fs::rename(idx() + ".partial", idx());
  const fs::path parent = fs::path(prefix_).parent_path();
  sync_path(parent.empty() ? "." : parent.string());
  fs::remove(lengths());
}

void TokenWriter::write_index() {
  const std::string path = idx() + ".partial";
  std::ofstream out;
  open(out, path);
  out.write(kMagic.data(), kMagic.size());
  put(out, kVersion);
  put(out, static_cast<uint8_t>(type_));
  put(out, static_cast<uint64_t>(documents_));
  put(out, static_cast<uint64_t>(documents_ + 1));
  // Two passes over the lengths: the lengths themselves, then the offsets as their prefix sum.
  std::vector<int32_t> piece(1 << 16);
  const auto each_piece = [&](const auto& take) {
    std::ifstream in(lengths(), std::ios::binary);
    for (int64_t left = documents_; left > 0;) {
      const int64_t n = std::min<int64_t>(left, static_cast<int64_t>(piece.size()));
      in.read(reinterpret_cast<char*>(piece.data()), n * 4);
      require(in.gcount() == n * 4, "{}: cannot be read back: {}", lengths(), std::strerror(errno));
      take(std::span(piece).first(n));
      left -= n;
    }
  };
  each_piece([&](std::span<const int32_t> part) {
    out.write(reinterpret_cast<const char*>(part.data()), static_cast<std::streamsize>(part.size_bytes()));
  });
  int64_t offset = 0;
  each_piece([&](std::span<const int32_t> part) {
    for (const int32_t length : part) {
      put(out, offset);
      offset += length * token_bytes(type_);
    }
  });
  for (int64_t document = 0; document <= documents_; ++document) put(out, document);
  wuneng::close(out, path);
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
