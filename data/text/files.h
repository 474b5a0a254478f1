// Expands a list of paths: files, directories (recursive) and globs.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace wuneng {

struct DataFile {
  std::string path;
  std::string name;  // relative to the entry that found it; identifies the file in hashes even if a directory
                     // is moved
  int64_t bytes = 0;
};

// All files that the entries match, without duplicates, sorted by path. Of directories and globs only files
// whose name ends in one of `endings` (".txt", ".jsonl.gz"; empty: any). An entry that matches nothing is an
// error.
std::vector<DataFile> find_files(const std::vector<std::string>& paths,
                                 const std::vector<std::string>& endings);

}  // namespace wuneng
