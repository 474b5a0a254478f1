// Records on disk: what processes add, lose when they are killed, and damage, read back.
#include "runtime/record_store.h"

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/error.h"
#include "tests/error_of.h"
#include "tests/unit/scratch_dir.h"

namespace wuneng::record_store_test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr int64_t kBytes = 1000, kEntry = 64;

class RecordStoreTest : public ScratchTest {
 protected:
  std::string directory() const { return root_.string(); }
  static RecordId id(uint64_t number, int64_t kind = 0) { return {{number, ~number}, kind}; }
  static std::string block(uint64_t number) {
    std::string out;
    for (int64_t i = 0; i < kBytes; ++i) out.push_back(static_cast<char>(number * 31 + i * i));
    return out;
  }
  static void append(RecordStore& store, uint64_t number) {
    store.append(id(number), block(number).data(), kBytes);
  }
  static std::string found(const RecordStore& store, const RecordId& id) {
    std::string out(kBytes, '?');
    store.read(id, out.data(), kBytes);
    return out;
  }
  void change(const std::string& name, int64_t at) const {  // one byte
    std::string content = read(name);
    content.at(at) ^= 1;
    write(name, content);
  }
};

TEST_F(RecordStoreTest, GivesBackWhatAnotherStoreHasAdded) {
  RecordStore one(directory()), other(directory());
  append(one, 1), append(one, 2);
  one.append(id(1, 7), block(17).data(), kBytes);
  EXPECT_EQ(found(one, id(2)), block(2));
  EXPECT_FALSE(other.has(id(1)));
  other.refresh();
  EXPECT_EQ(found(other, id(1)), block(1));
  EXPECT_EQ(found(other, id(1, 7)), block(17));
  append(other, 3);
  one.refresh();
  EXPECT_EQ(found(one, id(3)), block(3));
  EXPECT_FALSE(one.has(id(3, 1)));
  EXPECT_THAT(error_of([&] { found(one, id(4)); }), HasSubstr("expected a record"));
  int64_t on_disk = 0;
  for (const auto& entry : std::filesystem::directory_iterator(root_))
    on_disk += static_cast<int64_t>(entry.file_size());
  EXPECT_EQ(one.bytes(), on_disk);
  EXPECT_EQ(on_disk, 4 * RecordStore::bytes_with(kBytes));
}

// At every byte that a writer may have been killed at: the block and, after it, the entry are cut.
TEST_F(RecordStoreTest, IgnoresWhatAKilledProcessHasNotCompleted) {
  {
    RecordStore store(directory());
    append(store, 1), append(store, 2);
  }
  const std::string values = read("000000.values"), index = read("000000.index");
  for (const int64_t cut : {int64_t{1}, kEntry / 2, kEntry, kEntry + 1, kEntry + kBytes}) {
    write("000000.index", index.substr(0, 2 * kEntry - std::min(cut, kEntry)));
    write("000000.values", values.substr(0, 2 * kBytes - std::max<int64_t>(cut - kEntry, 0)));
    RecordStore store(directory());
    EXPECT_EQ(found(store, id(1)), block(1));
    EXPECT_FALSE(store.has(id(2))) << cut;
    EXPECT_EQ(store.damage(), "") << cut;
  }
  // The file system has made room for an entry and not written it; then its process goes on.
  write("000000.values", values);
  write("000000.index", index.substr(0, kEntry) + std::string(kEntry, '\0'));
  RecordStore store(directory());
  EXPECT_FALSE(store.has(id(2)));
  EXPECT_EQ(store.damage(), "");
  write("000000.index", index);
  store.refresh();
  EXPECT_EQ(found(store, id(2)), block(2));
}

TEST_F(RecordStoreTest, NamesADamagedBlockAndReadsAnotherWithItsId) {
  {
    RecordStore store(directory());
    append(store, 1), append(store, 2), append(store, 3);
  }
  change("000000.values", kBytes + 17);
  RecordStore store(directory());
  EXPECT_EQ(found(store, id(3)), block(3));
  EXPECT_EQ(store.problem(id(3), kBytes), "");
  const std::string error = error_of([&] { found(store, id(2)); });
  EXPECT_THAT(error, AllOf(HasSubstr("000000.values: record at byte 1000"), HasSubstr("expected checksum")));
  EXPECT_EQ(store.problem(id(2), kBytes), error);
  EXPECT_THAT(store.problem(id(3), kBytes - 1), HasSubstr("expected a record of 999 bytes, found 1000"));
  append(store, 2);
  EXPECT_EQ(store.problem(id(2), kBytes), "");
  EXPECT_EQ(found(RecordStore(directory()), id(2)), block(2));
  write("000000.values", read("000000.values").substr(0, 2 * kBytes + 1));
  EXPECT_THAT(error_of([&] { found(RecordStore(directory()), id(3)); }),
              HasSubstr("record at byte 2000: expected 1000 bytes, found a file that ends at byte 2001"));
}

TEST_F(RecordStoreTest, PassesOverADamagedEntryAndCountsIt) {
  {
    RecordStore store(directory());
    append(store, 1), append(store, 2), append(store, 3);
  }
  change("000000.index", kEntry + 20);
  const RecordStore store(directory());
  EXPECT_TRUE(store.has(id(1)) && store.has(id(3)));
  EXPECT_FALSE(store.has(id(2)));
  EXPECT_THAT(store.damage(), AllOf(HasSubstr("1 damaged"), HasSubstr("000000.index: entry at byte 64")));
}

// Half of each one's records are the next one's too, while this process looks on.
TEST_F(RecordStoreTest, ProcessesAddAtTheSameTime) {
  constexpr int kProcesses = 4, kRecords = 40, kDifferent = (kProcesses + 1) * kRecords / 2;
  std::vector<pid_t> children;
  for (int process = 0; process < kProcesses; ++process) {
    children.push_back(::fork());
    if (children.back() > 0) continue;
    RecordStore store(directory());
    for (int i = 0; i < kRecords; ++i) append(store, process * kRecords / 2 + i);
    ::_exit(0);
  }
  RecordStore store(directory());
  for (int i = 0; i < 20; ++i) store.refresh();
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0);
  }
  store.refresh();
  EXPECT_EQ(store.size(), kDifferent);
  for (int i = 0; i < kDifferent; ++i) EXPECT_EQ(found(store, id(i)), block(i));
  EXPECT_EQ(store.bytes(), kProcesses * kRecords * RecordStore::bytes_with(kBytes));
  EXPECT_EQ(store.damage(), "");
}

TEST_F(RecordStoreTest, OneOfSeveralMakesAFile) {
  EXPECT_TRUE(create_file_durably(path("a"), "first"));
  EXPECT_FALSE(create_file_durably(path("a"), "second"));
  EXPECT_EQ(read("a"), "first");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(root_), {}), 1);
}

}  // namespace
}  // namespace wuneng::record_store_test
