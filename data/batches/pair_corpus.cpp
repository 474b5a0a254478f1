#include "data/batches/pair_corpus.h"

#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <filesystem>

#include "data/text/files.h"
#include "data/token_files/token_file.h"
#include "data/token_files/token_info.h"
#include "runtime/error.h"
#include "runtime/threads.h"

namespace wuneng {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSides[] = {"_chosen", "_rejected"};

// What is before _chosen and _rejected, of all pairs of files that the entries name.
std::vector<std::string> find_pair_prefixes(const std::vector<std::string>& paths) {
  const std::string ending = "_chosen.idx";
  std::vector<std::string> entries, prefixes;
  for (const std::string& path : paths) {
    if (fs::is_regular_file(path + ending))
      entries.push_back(path + ending);
    else if (fs::is_regular_file(path + ".idx"))
      entries.push_back(path + ".idx");
    else
      entries.push_back(path.ends_with(".bin") ? path.substr(0, path.size() - 4) + ".idx" : path);
  }
  for (const DataFile& file : find_files(entries, {ending}).files) {
    require(file.path.ends_with(ending),
            "data path {}: expected preference pairs, PREFIX_chosen and PREFIX_rejected (wuneng tokenize "
            "makes them of records with a chosen and a rejected answer)",
            file.path);
    prefixes.push_back(file.path.substr(0, file.path.size() - ending.size()));
  }
  return prefixes;
}

void check_info(const std::string& prefix, const std::string& other) {
  const std::optional<TokenInfo> info = read_token_info(prefix);
  if (!info) return;
  require(info->kind == "preference", "{}.json: kind: expected \"preference\", found \"{}\"", prefix,
          info->kind);
  const std::string expected = fs::path(other).filename(), found = fs::path(info->pair).filename();
  require(found == expected, "{}.json: pair: expected {}, found {}", prefix, expected, found);
}

// Each of this process's share of the documents has a token with a loss behind its first one, which is no
// label.
void check_documents(const TokenFile& tokens, const TokenFile& mask, const CheckShare& share) {
  const int64_t documents = tokens.documents();
  std::atomic<int64_t> empty{documents}, unlabelled{documents};
  const auto first = [](std::atomic<int64_t>& least, int64_t d) {
    for (int64_t seen = least; d < seen && !least.compare_exchange_weak(seen, d);) {
    }
  };
  const int64_t from = documents * share.rank / share.ranks;
  parallel_for(documents * (share.rank + 1) / share.ranks - from, 64, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> learnt;
    for (int64_t d = from + begin; d < from + end; ++d) {
      const int64_t at = tokens.document_begin(d), count = tokens.document_begin(d + 1) - at;
      if (count == 0) first(empty, d);
      if (count == 0) continue;
      learnt.resize(count - 1);
      mask.read(at + 1, count - 1, 2, learnt.data());
      if (std::find(learnt.begin(), learnt.end(), 1) == learnt.end()) first(unlabelled, d);
    }
  });
  require(empty == documents, "{}: document {}: expected tokens, found none", tokens.prefix(), empty.load());
  require(unlabelled == documents,
          "{}: document {}: expected a token with a loss after its first, found none in {}", tokens.prefix(),
          unlabelled.load(), mask.prefix());
}

struct PairFiles {
  std::unique_ptr<Corpus> sides[2];
  int64_t first_pair[2];  // by split
};

PairFiles open_files(const std::string& prefix, TokenCorpusOptions options) {
  const std::string paths[] = {prefix + kSides[0], prefix + kSides[1]};
  require(fs::is_regular_file(paths[1] + ".idx"),
          "{}.idx: expected the rejected answers of the pairs in {}.idx, found no such file", paths[1],
          paths[0]);
  PairFiles out;
  int64_t documents[2];
  for (int side = 0; side < 2; ++side) {
    check_info(paths[side], paths[1 - side]);
    const TokenFile tokens = TokenFile::open(paths[side]);
    documents[side] = tokens.documents();
    const std::optional<TokenFile> mask = TokenFile::open_mask(tokens);
    require(mask.has_value(), "{}_mask: expected a loss mask, which tells answers from prompts, found none",
            paths[side]);
    check_documents(tokens, *mask, options.share);
    options.paths = {paths[side]};
    out.sides[side] = open_token_corpus(options);
  }
  require(documents[0] == documents[1],
          "{}: expected {} documents as in {}, found {}: one of each makes a pair", paths[1], documents[0],
          paths[0], documents[1]);
  require(out.sides[0]->tokenizer() == out.sides[1]->tokenizer(),
          "{}.json: expected tokens of tokenizer {} as in {}.json, found {}", paths[1],
          out.sides[0]->tokenizer(), paths[0], out.sides[1]->tokenizer());
  return out;
}

class PairCorpus : public Corpus {
 public:
  explicit PairCorpus(const TokenCorpusOptions& options) : vocab_size_(options.vocab_size) {
    for (const std::string& prefix : find_pair_prefixes(options.paths)) {
      PairFiles files = open_files(prefix, options);
      require(files_.empty() || files.sides[0]->tokenizer() == tokenizer(),
              "{}: expected tokens of tokenizer {} as before, found {}", prefix, tokenizer(),
              files.sides[0]->tokenizer());
      for (const Split split : {Split::train, Split::held_out}) add(files, split);
      for (const auto& side : files.sides) {
        const uint64_t part = side->fingerprint();
        fingerprint_ = XXH3_64bits_withSeed(&part, sizeof part, fingerprint_);
      }
      files_.push_back(std::move(files));
    }
  }

  int32_t vocab_size() const override { return vocab_size_; }
  std::string tokenizer() const override { return files_.empty() ? "" : files_[0].sides[0]->tokenizer(); }
  int64_t size(Split split) const override { return size_[index(split)]; }
  int64_t documents(Split split) const override { return static_cast<int64_t>(row_[index(split)].size()); }
  int64_t document_begin(Split split, int64_t document) const override {
    return document < documents(split) ? row_[index(split)][document] : size(split);
  }
  uint64_t fingerprint() const override { return fingerprint_; }

  Sample read(Split split, int64_t begin, int64_t count) const override {
    WUNENG_ASSERT(begin >= 0 && count >= 0 && begin + count <= size(split));
    const std::vector<int64_t>& rows = row_[index(split)];
    int64_t document = std::upper_bound(rows.begin(), rows.end(), begin) - rows.begin() - 1;
    Sample out;
    for (int64_t row = begin; row < begin + count; ++document) {
      const int64_t taken = std::min(document_begin(split, document + 1), begin + count) - row;
      const auto file = std::upper_bound(files_.begin(), files_.end(), document / 2,
                                         [&](int64_t pair, const PairFiles& f) {
                                           return pair < f.first_pair[index(split)];
                                         }) -
                        1;
      const Corpus& side = *file->sides[document % 2];
      const int64_t number = document / 2 - file->first_pair[index(split)];
      const Sample part = side.read(split, side.document_begin(split, number) + row - rows[document], taken);
      out.tokens.insert(out.tokens.end(), part.tokens.begin(), part.tokens.end());
      out.labels.insert(out.labels.end(), part.labels.begin(), part.labels.end());
      out.document_begin.push_back(row - begin);
      row += taken;
    }
    return out;
  }

 private:
  static size_t index(Split split) { return split == Split::held_out; }

  void add(PairFiles& files, Split split) {
    std::vector<int64_t>& rows = row_[index(split)];
    int64_t& size = size_[index(split)];
    files.first_pair[index(split)] = static_cast<int64_t>(rows.size()) / 2;
    WUNENG_ASSERT(files.sides[0]->documents(split) == files.sides[1]->documents(split));
    for (int64_t d = 0; d < files.sides[0]->documents(split); ++d)
      for (const auto& side : files.sides) {
        rows.push_back(size);
        size += side->document_begin(split, d + 1) - side->document_begin(split, d);
      }
  }

  std::vector<PairFiles> files_;
  std::vector<int64_t> row_[2];  // by split: the first of each document
  int64_t size_[2] = {0, 0};
  int32_t vocab_size_;
  uint64_t fingerprint_ = 0x70616972;  // another one than that of the same files without pairs
};

}  // namespace

std::unique_ptr<Corpus> open_pair_corpus(const TokenCorpusOptions& options) {
  return std::make_unique<PairCorpus>(options);
}

bool is_pair_prefix(const std::string& prefix) { return fs::is_regular_file(prefix + "_chosen.idx"); }

}  // namespace wuneng
