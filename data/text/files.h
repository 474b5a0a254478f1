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

struct FoundFiles {
  std::vector<DataFile> files;        // without duplicates, sorted by path
  std::vector<std::string> left_out;  // paths in directories that are no data, see below
};

// All files that the entries match. Of directories and globs only files whose name ends, in lower or upper
// case, in one of `endings` (".txt", ".jsonl.gz"; empty: any). Links are followed; a file that several paths
// lead to is one, under the first of them. An entry that matches nothing and a link that leads nowhere are
// errors.
//
// Left out of directories, as Hugging Face's datasets does: what is hidden (.name, and directories __name),
// and beside JSON lines what describes them (README.md, LICENSE, dataset_infos.json, ...). Of a cache of the
// hub (blobs, refs, snapshots) the one snapshot is read; several are an error.
FoundFiles find_files(const std::vector<std::string>& paths, const std::vector<std::string>& endings);

// For the user, the first of them; "" for none.
std::string describe_left_out(const std::vector<std::string>& left_out);

}  // namespace wuneng
