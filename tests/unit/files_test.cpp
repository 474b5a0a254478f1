// Which files of a directory are data: hidden files, caches of Hugging Face's hub, data cards, links.
#include "data/text/files.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include "runtime/error.h"
#include "tests/unit/scratch_dir.h"

namespace wuneng::files_test {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using ::testing::UnorderedElementsAre;

class FilesTest : public ScratchTest {
 protected:
  void link(const std::string& target, const std::string& name) const {
    fs::create_directories((root_ / name).parent_path());
    fs::create_symlink(target, root_ / name);
  }
  // Paths relative to the scratch directory.
  std::vector<std::string> relative(std::vector<std::string> paths) const {
    for (std::string& p : paths) p = fs::path(p).lexically_relative(root_).string();
    return paths;
  }
  std::vector<std::string> found(const std::vector<std::string>& entries,
                                 const std::vector<std::string>& endings = {}) const {
    std::vector<std::string> paths, out;
    for (const std::string& entry : entries) paths.push_back(path(entry));
    for (const DataFile& file : find_files(paths, endings).files) out.push_back(file.path);
    return relative(out);
  }
};

TEST_F(FilesTest, HiddenFilesAndCardsAreLeftOutOfDirectories) {
  write("hub/train.jsonl", "{}");
  write("hub/more/test.JSONL.GZ", "{}");
  for (const char* hidden : {"hub/.gitattributes", "hub/.cache/huggingface/download/train.jsonl.metadata",
                             "hub/more/.git/config", "hub/.locks/a.lock", "hub/.train.jsonl.swp",
                             "hub/__MACOSX/._train.jsonl", "hub/README.md", "hub/dataset_infos.json"})
    write(hidden, "x");
  EXPECT_THAT(found({"hub"}), ElementsAre("hub/more/test.JSONL.GZ", "hub/train.jsonl"));
  EXPECT_THAT(
      relative(find_files({path("hub")}, {}).left_out),
      UnorderedElementsAre("hub/.cache", "hub/.gitattributes", "hub/.locks", "hub/.train.jsonl.swp",
                           "hub/__MACOSX", "hub/more/.git", "hub/README.md", "hub/dataset_infos.json"));
  EXPECT_THAT(describe_left_out({"a", "b", "c", "d", "e"}), HasSubstr("a, b, c and 2 more"));
  EXPECT_EQ(describe_left_out({}), "");
  // Named, they are taken; globs find no hidden files by themselves.
  EXPECT_THAT(found({"hub/.gitattributes", "hub/README.md"}),
              ElementsAre("hub/.gitattributes", "hub/README.md"));
  EXPECT_THAT(found({"hub/.cache"}), ElementsAre("hub/.cache/huggingface/download/train.jsonl.metadata"));
  EXPECT_THAT(found({"hub/*"}, {".jsonl", ".jsonl.gz"}),
              ElementsAre("hub/more/test.JSONL.GZ", "hub/train.jsonl"));
  EXPECT_THAT(found({"hub"}, {".md"}), ElementsAre("hub/README.md"));
  write("texts/README.md", "x");  // among texts it is one
  write("texts/a.txt", "x");
  EXPECT_THAT(found({"texts"}), ElementsAre("texts/README.md", "texts/a.txt"));
  write("only/.hidden", "x");
  EXPECT_THAT([&] { found({"only"}); },
              ThrowsMessage<Error>(HasSubstr("found none that is not hidden (1 are)")));
}

TEST_F(FilesTest, OfACacheOfTheHubOneSnapshotIsRead) {
  const std::string cache = "datasets--org--set";
  write(cache + "/blobs/0123", "{}");
  write(cache + "/blobs/4567.incomplete", "{");
  write(cache + "/refs/main", "aaaa");
  link("../../blobs/0123", cache + "/snapshots/aaaa/train.jsonl");
  EXPECT_THAT(found({cache}), ElementsAre(cache + "/snapshots/aaaa/train.jsonl"));
  EXPECT_THAT(found({"."}), ElementsAre(cache + "/snapshots/aaaa/train.jsonl"));
  link("../../blobs/0123", cache + "/snapshots/bbbb/train.jsonl");
  EXPECT_THAT([&] { found({cache}); },
              ThrowsMessage<Error>(HasSubstr("expected one snapshot, found 2 (name one")));
  EXPECT_THAT(found({cache + "/snapshots/bbbb"}), ElementsAre(cache + "/snapshots/bbbb/train.jsonl"));
}

TEST_F(FilesTest, LinksAreFollowedOnce) {
  write("elsewhere/big.txt", "x");
  write("data/a.txt", "x");
  link("../elsewhere", "data/linked");
  link("..", "data/linked_up/up");  // a loop
  link("a.txt", "data/b.txt");
  fs::create_hard_link(root_ / "data/a.txt", root_ / "data/c.txt");  // a file of its own to whoever made it
  EXPECT_THAT(found({"data"}), ElementsAre("data/a.txt", "data/c.txt", "data/linked/big.txt"));
  EXPECT_THAT(found({"data", "data/b.txt", "elsewhere"}),
              ElementsAre("data/a.txt", "data/c.txt", "data/linked/big.txt"));
  link("nowhere", "data/broken.txt");
  EXPECT_THAT(
      [&] { found({"data"}); },
      ThrowsMessage<Error>(HasSubstr("data/broken.txt: expected a file, found a link that leads nowhere")));
  EXPECT_THAT(found({"data"}, {"a.txt"}), ElementsAre("data/a.txt"));
  fs::remove(root_ / "data/broken.txt");
  link("itself.txt", "data/itself.txt");
  EXPECT_THAT([&] { found({"data"}); },
              ThrowsMessage<Error>(HasSubstr("itself.txt: expected a file, found")));
}

TEST_F(FilesTest, WhatIsNoFileIsRefused) {
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  for (const char* entry : {"pipe", "."})
    EXPECT_THAT([&] { found({entry}); },
                ThrowsMessage<Error>(HasSubstr("found a device, a socket or a pipe")));
  EXPECT_THAT([&] { find_files({"/dev/null"}, {}); },
              ThrowsMessage<Error>(HasSubstr("/dev/null: expected a file")));
  EXPECT_THAT([&] { found({"missing"}); },
              ThrowsMessage<Error>(HasSubstr("expected at least one file, found none")));
}

}  // namespace
}  // namespace wuneng::files_test
