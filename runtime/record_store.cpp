#include "runtime/record_store.h"

#include <fcntl.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "runtime/hash.h"

namespace wuneng {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMagic = 0x31434552474e5557;  // "WUNGREC1"
constexpr const char *kValues = ".values", *kIndex = ".index";

struct Entry {
  uint64_t magic = kMagic, key[2];
  int64_t kind, offset, bytes;
  uint64_t hash;  // of the block
  uint64_t own;   // of the entry up to here
};
static_assert(sizeof(Entry) == 64);

uint64_t own_hash(const Entry& e) { return hash_of(&e, offsetof(Entry, own)); }
bool is_whole(const Entry& e) {
  return e.magic == kMagic && e.own == own_hash(e) && e.offset >= 0 && e.bytes >= 0;
}

}  // namespace

RecordStore::RecordStore(const std::string& directory) : directory_(directory) { refresh(); }

std::string RecordStore::path(const std::string& file, const char* ending) const {
  return directory_ + "/" + file + ending;
}

void RecordStore::refresh() {
  std::error_code error;
  for (fs::directory_iterator at(directory_, error), end; !error && at != end; at.increment(error)) {
    if (at->path().extension() != kIndex) continue;
    const std::string file = at->path().stem().string();
    if (writer_ && file == writer_->file) continue;
    const FileDescriptor values(path(file, kValues), O_RDONLY), index(path(file, kIndex), O_RDONLY);
    const int64_t size = index.size();
    files_[file].bytes = values.size() + size;
    read_index(file, size);
  }
  require(!error, "{}: expected a directory that can be read: {}", directory_, error.message());
}

// Where the last entry is not whole it may be under way: it is looked at again.
void RecordStore::read_index(const std::string& file, int64_t size) {
  constexpr int64_t kEntry = sizeof(Entry);
  int64_t& at = files_[file].read;
  const int64_t count = (size - at) / kEntry;
  if (count <= 0) return;
  std::vector<Entry> entries(static_cast<size_t>(count));
  FileDescriptor(path(file, kIndex), O_RDONLY).read(at, entries.data(), count * kEntry);
  if (!is_whole(entries.back())) entries.pop_back();
  for (const Entry& e : entries) {
    if (is_whole(e)) {
      places_[{{e.key[0], e.key[1]}, e.kind}].push_back({file, e.offset, e.bytes, e.hash});
    } else if (damaged_++ == 0) {
      first_damage_ = fmt::format("{}: entry at byte {}", path(file, kIndex), at);
    }
    at += kEntry;
  }
}

std::string RecordStore::damage() const {
  return damaged_ == 0 ? "" : fmt::format("{} damaged entries, the first: {}", damaged_, first_damage_);
}

std::string RecordStore::read_from(const Place& place, void* into, int64_t bytes) const {
  const FileDescriptor file(path(place.file, kValues), O_RDONLY);
  const std::string where = fmt::format("{}: record at byte {}", file.path(), place.offset);
  if (place.bytes != bytes)
    return fmt::format("{}: expected a record of {} bytes, found {}", where, bytes, place.bytes);
  if (const int64_t size = file.size(); size - bytes < place.offset)
    return fmt::format("{}: expected {} bytes, found a file that ends at byte {}", where, bytes, size);
  file.read(place.offset, into, bytes);
  const uint64_t found = hash_of(into, bytes);
  if (found == place.hash) return "";
  return fmt::format("{}: expected checksum {}, found {}: it is damaged", where, hash_text(place.hash),
                     hash_text(found));
}

void RecordStore::read(const RecordId& id, void* into, int64_t bytes) const {
  const auto found = places_.find(id);
  require(found != places_.end(), "{}: expected a record {}{} of kind {}, found none", directory_,
          hash_text(id.key[1]), hash_text(id.key[0]), id.kind);
  std::string problem;
  for (const Place& place : found->second)
    if (problem = read_from(place, into, bytes); problem.empty()) return;
  fail("{}", problem);
}

std::string RecordStore::problem(const RecordId& id, int64_t bytes) const {
  std::vector<char> into(static_cast<size_t>(bytes));
  std::string problem;
  for (const Place& place : places_.at(id))
    if (problem = read_from(place, into.data(), bytes); problem.empty()) break;
  return problem;
}

// The number is the first that no process has taken.
void RecordStore::open_writer() {
  for (int64_t number = static_cast<int64_t>(files_.size());; ++number) {
    const std::string file = fmt::format("{:06}", number);
    auto values = FileDescriptor::create_new(path(file, kValues));
    if (!values) continue;
    auto index = FileDescriptor::create_new(path(file, kIndex));
    require(index.has_value(), "{}: expected no such file beside a new {}", path(file, kIndex), kValues);
    writer_.emplace(Writer{file, std::move(*values), std::move(*index)});
    return;
  }
}

void RecordStore::append(const RecordId& id, const void* from, int64_t bytes) {
  if (!writer_) open_writer();
  Writer& w = *writer_;
  Entry entry{.key = {id.key[0], id.key[1]},
              .kind = id.kind,
              .offset = w.values_end,
              .bytes = bytes,
              .hash = hash_of(from, bytes),
              .own = 0};
  entry.own = own_hash(entry);
  w.values.write(w.values_end, from, bytes);
  w.index.write(w.index_end, &entry, sizeof entry);
  w.values_end += bytes;
  w.index_end += static_cast<int64_t>(sizeof entry);
  files_[w.file] = {w.index_end, w.values_end + w.index_end};
  places_[id].insert(places_[id].begin(), {w.file, entry.offset, bytes, entry.hash});
}

void RecordStore::sync() const {
  if (!writer_) return;
  writer_->values.sync();
  writer_->index.sync();
  sync_path(directory_);
}

int64_t RecordStore::bytes() const {
  int64_t out = 0;
  for (const auto& [name, file] : files_) out += file.bytes;
  return out;
}

int64_t RecordStore::bytes_with(int64_t bytes) { return bytes + static_cast<int64_t>(sizeof(Entry)); }

}  // namespace wuneng
