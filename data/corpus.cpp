#include "data/corpus.h"

#include <glob.h>
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "runtime/error.h"

namespace wuneng {
namespace {

namespace fs = std::filesystem;

struct File {
  std::string path;
  std::string name;  // below the entry that found it: the file's identity in hashes
  int64_t bytes = 0;
};

std::vector<std::string> expand_glob(const std::string& pattern) {
  glob_t found{};
  const int status = ::glob(pattern.c_str(), GLOB_NOSORT, nullptr, &found);
  std::vector<std::string> paths(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  require(status == 0 || status == GLOB_NOMATCH, "data path {}: cannot be searched (glob returned {})",
          pattern, status);
  return paths;
}

// Every file that the entries name, once, sorted by path.
std::vector<File> find_files(const CorpusOptions& options) {
  std::vector<File> files;
  const auto wanted = [&](const fs::path& p) {
    return options.extensions.empty() || std::find(options.extensions.begin(), options.extensions.end(),
                                                   p.extension().string()) != options.extensions.end();
  };
  const auto add = [&](const fs::path& p, const fs::path& below) {
    files.push_back({p.lexically_normal().string(), p.lexically_relative(below).generic_string(),
                     static_cast<int64_t>(fs::file_size(p))});
  };
  const auto add_directory = [&](const fs::path& directory, const fs::path& below) {
    for (const auto& entry : fs::recursive_directory_iterator(directory))
      if (entry.is_regular_file() && wanted(entry.path())) add(entry.path(), below);
  };
  for (const std::string& entry : options.paths) {
    const size_t before = files.size();
    try {
      if (fs::is_directory(entry)) {
        add_directory(entry, entry);
      } else if (fs::is_regular_file(entry)) {
        add(entry, fs::path(entry).parent_path());
      } else {
        // Names count from the last folder without a wildcard.
        const std::string fixed = entry.substr(0, entry.find_first_of("*?["));
        const fs::path below = fs::path(fixed).parent_path();
        for (const std::string& match : expand_glob(entry)) {
          if (fs::is_directory(match))
            add_directory(match, below);
          else if (wanted(match))
            add(match, below);
        }
      }
    } catch (const fs::filesystem_error& e) {
      fail("data path {}: {}", entry, e.what());
    }
    require(files.size() > before, "data path {}: expected at least one file{}, found none", entry,
            options.extensions.empty() ? ""
                                       : fmt::format(" ending in {}", fmt::join(options.extensions, " or ")));
  }
  // Stable: a file that two entries find is named by the first.
  std::stable_sort(files.begin(), files.end(), [](const File& a, const File& b) { return a.path < b.path; });
  const auto same = [](const File& a, const File& b) { return a.path == b.path; };
  files.erase(std::unique(files.begin(), files.end(), same), files.end());
  return files;
}

// A run of one file's bytes that a stream holds: a document.
struct Document {
  size_t file;
  int64_t offset;  // in the file
  int64_t begin;   // row of its first byte in the stream
  int64_t size;
};

struct Stream {
  std::vector<Document> documents;
  int64_t size = 0;

  void append(size_t file, int64_t offset, int64_t bytes) {
    if (!documents.empty()) {
      Document& last = documents.back();
      if (last.file == file && last.offset + last.size == offset) {
        last.size += bytes, size += bytes;
        return;
      }
    }
    documents.push_back({file, offset, size, bytes});
    size += bytes;
  }
};

class ByteCorpus : public Corpus {
 public:
  explicit ByteCorpus(const CorpusOptions& options) : files_(find_files(options)) {
    require(options.block > 0 && options.held_out_every >= 0,
            "data: block = {} (expected > 0), held_out_every = {} (expected >= 0)", options.block,
            options.held_out_every);
    for (size_t i = 0; i < files_.size(); ++i) {
      const uint64_t name = XXH3_64bits_withSeed(files_[i].name.data(), files_[i].name.size(), options.seed);
      for (int64_t offset = 0; offset < files_[i].bytes; offset += options.block) {
        const int64_t block = offset / options.block;
        const bool held_out = options.held_out_every > 0 &&
                              XXH3_64bits_withSeed(&block, sizeof block, name) % options.held_out_every == 0;
        stream(held_out ? Split::held_out : Split::train)
            .append(i, offset, std::min(options.block, files_[i].bytes - offset));
      }
      for (const uint64_t part : {name, static_cast<uint64_t>(files_[i].bytes)})
        fingerprint_ = XXH3_64bits_withSeed(&part, sizeof part, fingerprint_);
    }
    for (const int64_t part : {options.block, options.held_out_every})
      fingerprint_ = XXH3_64bits_withSeed(&part, sizeof part, fingerprint_);
  }

  int32_t vocab_size() const override { return 256; }
  int64_t size(Split split) const override { return stream(split).size; }
  uint64_t fingerprint() const override { return fingerprint_; }

  Sample read(Split split, int64_t begin, int64_t count) const override {
    const Stream& s = stream(split);
    WUNENG_ASSERT(begin >= 0 && count >= 0 && begin + count <= s.size);
    Sample sample;
    sample.tokens.reserve(count);
    sample.labels.reserve(count);
    auto document = std::upper_bound(s.documents.begin(), s.documents.end(), begin,
                                     [](int64_t row, const Document& d) { return row < d.begin; });
    for (int64_t row = begin; row < begin + count;) {
      const Document& d = *(document++ - 1);
      const int64_t at = row - d.begin, rows = std::min(d.size - at, begin + count - row);
      const std::string bytes = read_bytes(files_[d.file], d.offset + at, std::min(rows + 1, d.size - at));
      sample.document_begin.push_back(row - begin);
      for (int64_t i = 0; i < rows; ++i) {
        sample.tokens.push_back(static_cast<uint8_t>(bytes[i]));
        const bool last = i + 1 == static_cast<int64_t>(bytes.size());
        sample.labels.push_back(last ? kNoLabel : static_cast<uint8_t>(bytes[i + 1]));
      }
      row += rows;
    }
    return sample;
  }

 private:
  // Opened for each read: no limit on the number of files, nothing shared between threads, and the page cache
  // does the rest.
  static std::string read_bytes(const File& file, int64_t offset, int64_t count) {
    std::string bytes(count, '\0');
    std::ifstream in(file.path, std::ios::binary);
    require(in.good(), "{}: cannot be read any more; it had {} bytes at the start", file.path, file.bytes);
    in.seekg(offset);
    in.read(bytes.data(), count);
    require(in.gcount() == count, "{}: expected {} bytes at {}, found {}: it changed since the start",
            file.path, count, offset, in.gcount());
    return bytes;
  }

  Stream& stream(Split split) { return streams_[split == Split::held_out]; }
  const Stream& stream(Split split) const { return streams_[split == Split::held_out]; }

  std::vector<File> files_;
  Stream streams_[2];
  uint64_t fingerprint_ = 0;
};

}  // namespace

std::unique_ptr<Corpus> open_byte_corpus(const CorpusOptions& options) {
  return std::make_unique<ByteCorpus>(options);
}

}  // namespace wuneng
