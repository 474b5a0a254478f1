// Which files a list of paths names: files, directories searched to the bottom, and globs.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace wuneng {

struct DataFile {
  std::string path;
  std::string name;  // below the entry that found it: the file's identity in hashes, kept when a folder moves
  int64_t bytes = 0;
};

// Every file that the entries name, once, sorted by path. A directory gives the files in it whose name ends
// in one of `endings` (".txt", ".jsonl.gz"; none: any), a glob likewise; a file named outright is taken as it
// is. An entry that names nothing is an error.
std::vector<DataFile> find_files(const std::vector<std::string>& paths,
                                 const std::vector<std::string>& endings);

}  // namespace wuneng
