#include "data/batches/token_corpus.h"

#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "data/text/files.h"
#include "data/token_files/token_file.h"
#include "data/token_files/token_info.h"
#include "runtime/error.h"

namespace wuneng {
namespace {

namespace fs = std::filesystem;

struct Source {
  TokenFile tokens;
  std::optional<TokenFile> mask;
};

// Prefixes of all files that the entries name, without loss masks.
std::vector<std::string> find_prefixes(const TokenCorpusOptions& options) {
  std::vector<std::string> entries;
  for (const std::string& path : options.paths) {
    if (fs::is_regular_file(path + ".idx"))
      entries.push_back(path + ".idx");
    else
      entries.push_back(path.ends_with(".bin") ? path.substr(0, path.size() - 4) + ".idx" : path);
  }
  std::vector<std::string> prefixes;
  for (const DataFile& file : find_files(entries, {".idx"}).files) {
    require(file.path.ends_with(".idx"), "data path {}: expected a token file (.idx and .bin)", file.path);
    prefixes.push_back(file.path.substr(0, file.path.size() - 4));
  }
  const auto is_mask = [&](const std::string& prefix) {
    constexpr std::string_view kMask = "_mask";
    return prefix.ends_with(kMask) && fs::exists(prefix.substr(0, prefix.size() - kMask.size()) + ".idx");
  };
  std::erase_if(prefixes, is_mask);
  return prefixes;
}

// The documents of one split, in order. 16 bytes each: a corpus may have hundreds of millions.
struct SplitDocuments {
  std::vector<int64_t> row;         // of the document's first token, in the split
  std::vector<int64_t> position;    // of that token, in its file
  std::vector<int64_t> file_first;  // by file: its first document in the split
  int64_t size = 0;
};

class TokenCorpus : public Corpus {
 public:
  explicit TokenCorpus(const TokenCorpusOptions& options) : vocab_size_(options.vocab_size) {
    require(options.vocab_size > 0 && options.held_out_every >= 0,
            "data: vocab_size = {} (expected > 0), held_out_every = {} (expected >= 0)", options.vocab_size,
            options.held_out_every);
    for (const std::string& prefix : find_prefixes(options)) {
      const std::optional<TokenInfo> info = check_info(prefix);
      Source source{TokenFile::open(prefix), std::nullopt};
      source.mask = TokenFile::open_mask(source.tokens);
      check_values(source, info, options.share);
      add_documents(source.tokens, options);
      mix(source.tokens.fingerprint());
      mix(source.mask ? source.mask->fingerprint() : 0);
      sources_.push_back(std::move(source));
    }
    for (const int64_t part : {int64_t{options.vocab_size}, options.held_out_every, int64_t(options.seed)})
      mix(static_cast<uint64_t>(part));
  }

  int32_t vocab_size() const override { return vocab_size_; }
  std::string tokenizer() const override { return tokenizer_; }
  int64_t size(Split split) const override { return stream(split).size; }
  int64_t documents(Split split) const override { return static_cast<int64_t>(stream(split).row.size()); }
  int64_t document_begin(Split split, int64_t document) const override {
    return document < documents(split) ? stream(split).row[document] : size(split);
  }
  uint64_t fingerprint() const override { return fingerprint_; }

  Sample read(Split split, int64_t begin, int64_t count) const override {
    const SplitDocuments& s = stream(split);
    WUNENG_ASSERT(begin >= 0 && count >= 0 && begin + count <= s.size);
    Sample sample;
    sample.tokens.resize(count);
    sample.labels.resize(count);
    int64_t document = std::upper_bound(s.row.begin(), s.row.end(), begin) - s.row.begin() - 1;
    std::vector<int32_t> tokens, loss_mask;
    for (int64_t row = begin; row < begin + count; ++document) {
      const int64_t end = document_begin(split, document + 1), rows = std::min(end, begin + count) - row;
      const bool looks_ahead = row + rows < end;
      const auto file = std::upper_bound(s.file_first.begin(), s.file_first.end(), document) - 1;
      const Source& source = sources_[file - s.file_first.begin()];
      const int64_t at = s.position[document] + row - s.row[document];
      tokens.resize(rows + looks_ahead);
      source.tokens.read(at, rows + looks_ahead, vocab_size_, tokens.data());
      loss_mask.assign(rows + 1, 1);
      if (source.mask) source.mask->read(at, rows + looks_ahead, 2, loss_mask.data());
      sample.document_begin.push_back(row - begin);
      std::copy_n(tokens.begin(), rows, sample.tokens.begin() + (row - begin));
      for (int64_t i = 0; i < rows; ++i) {
        const bool has_next = i + 1 < rows || looks_ahead;
        sample.labels[row - begin + i] = has_next && loss_mask[i + 1] ? tokens[i + 1] : kNoLabel;
      }
      row += rows;
    }
    return sample;
  }

 private:
  std::optional<TokenInfo> check_info(const std::string& prefix) {
    std::optional<TokenInfo> info = read_token_info(prefix);
    if (!info) return info;
    require(
        info->vocab_size <= vocab_size_,
        "{}.json: expected tokens of a tokenizer with at most {} ids, as in the model's vocabulary, found {}",
        prefix, vocab_size_, info->vocab_size);
    if (tokenizer_.empty()) tokenizer_ = info->tokenizer;
    require(info->tokenizer == tokenizer_, "{}.json: expected tokens of tokenizer {} as before, found {}",
            prefix, tokenizer_, info->tokenizer);
    return info;
  }

  void check_values(const Source& source, const std::optional<TokenInfo>& info,
                    const CheckShare& share) const {
    const int64_t tokens = source.tokens.tokens();
    const std::string& prefix = source.tokens.prefix();
    const auto check = [&](const TokenFile& file, int64_t limit, int64_t highest) {
      if (info && describes(*info, prefix, file.prefix() + ".bin", tokens) && highest < limit) return;
      file.check_range(tokens * share.rank / share.ranks, tokens * (share.rank + 1) / share.ranks, limit);
    };
    check(source.tokens, vocab_size_, info ? info->highest : 0);
    if (source.mask) check(*source.mask, 2, 1);
  }

  void add_documents(const TokenFile& file, const TokenCorpusOptions& options) {
    for (SplitDocuments& s : splits_) s.file_first.push_back(static_cast<int64_t>(s.row.size()));
    splits_[0].row.reserve(splits_[0].row.size() + file.documents());
    splits_[0].position.reserve(splits_[0].position.size() + file.documents());
    int64_t begin = 0;
    for (int64_t d = 0; d < file.documents(); ++d) {
      const int64_t end = file.document_begin(d + 1);
      if (end > begin) {  // an empty document has no row
        const bool held_out = options.held_out_every > 0 &&
                              XXH3_64bits_withSeed(&d, sizeof d, options.seed) % options.held_out_every == 0;
        SplitDocuments& s = stream(held_out ? Split::held_out : Split::train);
        s.row.push_back(s.size);
        s.position.push_back(begin);
        s.size += end - begin;
      }
      begin = end;
    }
  }

  void mix(uint64_t part) { fingerprint_ = XXH3_64bits_withSeed(&part, sizeof part, fingerprint_); }
  SplitDocuments& stream(Split split) { return splits_[split == Split::held_out]; }
  const SplitDocuments& stream(Split split) const { return splits_[split == Split::held_out]; }

  std::vector<Source> sources_;
  SplitDocuments splits_[2];
  int32_t vocab_size_;
  std::string tokenizer_;
  uint64_t fingerprint_ = 0;
};

}  // namespace

std::unique_ptr<Corpus> open_token_corpus(const TokenCorpusOptions& options) {
  return std::make_unique<TokenCorpus>(options);
}

}  // namespace wuneng
