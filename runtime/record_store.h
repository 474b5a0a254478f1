// RecordStore: blocks of bytes in a directory, found by a hash of what they were computed from. Processes on
// several hosts may read and add at the same time; none changes what is there.
//
// A process that adds has two files of its own, which no other writes to: N.values, its blocks one after
// another, and N.index, an entry for each block, written after it. So a block that has an entry is complete,
// and what a killed process leaves behind its last entry, in either file, is no record. Entries and blocks
// have checksums: a damaged entry is passed over and counted, a damaged block is an error where it is read.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/file.h"

namespace wuneng {

struct RecordId {
  std::array<uint64_t, 2> key;  // a hash of 128 bits
  int64_t kind = 0;             // which of several blocks with that key
  bool operator==(const RecordId&) const = default;
};
struct RecordIdHash {
  size_t operator()(const RecordId& id) const {
    return static_cast<size_t>(id.key[0] + 0x9e3779b97f4a7c15u * static_cast<uint64_t>(id.kind));
  }
};

class RecordStore {
 public:
  // Opens a directory and reads the entries that it has.
  explicit RecordStore(const std::string& directory);

  // Reads the entries that other processes have added since.
  void refresh();
  bool has(const RecordId& id) const { return places_.contains(id); }
  // Fills `into` with a record that is there. Throws an error with the file and the offset where it has
  // another number of bytes, or is damaged in all places that have it. Several threads may call it at a time.
  void read(const RecordId& id, void* into, int64_t bytes) const;
  // What read() would throw: empty where the record is whole.
  std::string problem(const RecordId& id, int64_t bytes) const;
  // Adds a record, also where there is one with this id: then either may be read.
  void append(const RecordId& id, const void* from, int64_t bytes);
  // What was appended is on the disk.
  void sync() const;

  int64_t size() const { return static_cast<int64_t>(places_.size()); }  // of different ids
  // Of all files, as of the last refresh() and append().
  int64_t bytes() const;
  // How many a record of `bytes` adds to that.
  static int64_t bytes_with(int64_t bytes);
  // The first damaged entry, by its file and offset, and how many there are; empty where there is none.
  std::string damage() const;

 private:
  struct File {
    int64_t read = 0;   // bytes of the index whose entries are known
    int64_t bytes = 0;  // of both files
  };
  struct Place {
    std::string file;  // without .values and .index
    int64_t offset, bytes;
    uint64_t hash;
  };
  struct Writer {
    std::string file;
    FileDescriptor values, index;
    int64_t values_end = 0, index_end = 0;
  };
  void read_index(const std::string& file, int64_t size);
  void open_writer();
  std::string path(const std::string& file, const char* ending) const;
  std::string read_from(const Place& place, void* into, int64_t bytes) const;

  std::string directory_;
  std::map<std::string, File> files_;
  std::unordered_map<RecordId, std::vector<Place>, RecordIdHash> places_;
  std::optional<Writer> writer_;
  std::string first_damage_;
  int64_t damaged_ = 0;
};

}  // namespace wuneng
