// safetensors: named tensors in one file, or in several with an index. A file is a u64 header length, a JSON
// header and the data.
//
// Reading maps the file; a tensor is a view of the mapping, so that only accessed pages are read. The whole
// header is validated before use.
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/file.h"
#include "runtime/tensor.h"

namespace wuneng {

struct SafetensorsEntry {
  std::string type;            // as the file spells it: "F32", "BOOL"
  std::optional<DType> dtype;  // none: a type that Tensor does not have
  Shape shape;
  int64_t begin = 0, end = 0;  // bytes, from the data's start
};

class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);
  const std::map<std::string, SafetensorsEntry>& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // A view of the mapped file, or a copy if it is not aligned there. Read-only. Throws for a tensor of a type
  // that Tensor does not have.
  Tensor tensor(const std::string& name) const;

 private:
  std::string path_;
  MappedFile file_;
  int64_t data_ = 0;  // offset of the data
  std::map<std::string, SafetensorsEntry> entries_;
  std::map<std::string, std::string> metadata_;
};

// model.safetensors, or model.safetensors.index.json and the files that it names, with all tensors in them.
class SafetensorsDirectory {
 public:
  explicit SafetensorsDirectory(const std::string& directory);
  static bool exists(const std::string& directory);  // has it a model.safetensors or an index of several?
  std::vector<std::string> names() const;
  bool contains(const std::string& name) const { return file_of_.count(name) > 0; }
  const SafetensorsEntry& entry(const std::string& name) const;
  Tensor tensor(const std::string& name) const;

 private:
  void read_index(const std::string& index);

  std::string directory_;
  std::map<std::string, SafetensorsFile> files_;
  std::map<std::string, std::string> file_of_;
};

// Writes tensors to model.safetensors, or to several files and an index if they exceed max_file_bytes
// together. Calls `content` for one tensor at a time. Files are written to a temporary name, synced and
// renamed.
struct SafetensorsItem {
  std::string name;
  DType dtype;
  Shape shape;
};
using SafetensorsContent = std::function<Tensor(const SafetensorsItem&)>;
void write_safetensors(const std::string& directory, std::vector<SafetensorsItem> items,
                       int64_t max_file_bytes, const SafetensorsContent& content);
// One file, its tensors in the order of `items`.
void write_safetensors_file(const std::string& path, const std::vector<SafetensorsItem>& items,
                            const std::map<std::string, std::string>& metadata,
                            const SafetensorsContent& content);

}  // namespace wuneng
