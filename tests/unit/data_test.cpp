// Corpora and micro-batches: splits, documents, labels, and that the order is a function of the number only.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "data/batches/batch.h"
#include "runtime/error.h"
#include "tests/unit/scratch_dir.h"
#include "tests/unit/tensor_values.h"

namespace wuneng::data_test {
namespace {

namespace fs = std::filesystem;

class DataTest : public ScratchTest {
 protected:
  // Byte i of a file is a function of (salt, i) without a short period.
  static std::string text(int64_t bytes, uint64_t salt) {
    std::string s(bytes, '\0');
    for (int64_t i = 0; i < bytes; ++i) {
      const uint64_t x = (salt + i) * 0x9e3779b97f4a7c15u;
      s[i] = static_cast<char>(((x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u) >> 56);
    }
    return s;
  }
  std::unique_ptr<Corpus> open(int64_t every, int64_t block = 64,
                               std::vector<std::string> extensions = {}) const {
    return open_byte_corpus(
        {.paths = {root_.string()}, .extensions = extensions, .held_out_every = every, .block = block});
  }
  static std::string bytes(const Corpus& corpus, Split split) {
    const Sample all = corpus.read(split, 0, corpus.size(split));
    return {all.tokens.begin(), all.tokens.end()};
  }
};

TEST_F(DataTest, FilesComeSortedFilteredAndOnce) {
  write("b.txt", "bb");
  write("a/z.md", "zzz");
  write("a/c.txt", "cc");
  write("skip.bin", "xxxx");
  write("empty.txt", "");
  EXPECT_EQ(bytes(*open(0, 64, {".txt", ".md"}), Split::train), "cczzzbb");
  const std::string r = root_.string();
  const auto named = open_byte_corpus(
      {.paths = {r + "/b.txt", r + "/a/*.txt", r, r + "/a"}, .extensions = {".txt"}, .held_out_every = 0});
  EXPECT_EQ(bytes(*named, Split::train), "ccbb");
  EXPECT_EQ(named->vocab_size(), 256);
  EXPECT_THROW(open_byte_corpus({.paths = {r + "/*.none"}}), Error);
  EXPECT_THROW(open_byte_corpus({.paths = {r}, .extensions = {".none"}}), Error);
}

TEST_F(DataTest, LabelsAreTheDocumentsNextToken) {
  write("1.txt", "abc");
  write("2.txt",
        "\xff"
        "de");
  const Sample all = open(0)->read(Split::train, 0, 6);
  EXPECT_EQ(all.tokens, (std::vector<int32_t>{'a', 'b', 'c', 255, 'd', 'e'}));
  EXPECT_EQ(all.labels, (std::vector<int32_t>{'b', 'c', kNoLabel, 'd', 'e', kNoLabel}));
  EXPECT_EQ(all.document_begin, (std::vector<int64_t>{0, 3}));
  const Sample middle = open(0)->read(Split::train, 1, 4);  // begins and ends inside a document
  EXPECT_EQ(middle.labels, (std::vector<int32_t>{'c', kNoLabel, 'd', 'e'}));
  EXPECT_EQ(middle.document_begin, (std::vector<int64_t>{0, 2}));
}

// The two splits together are the file, block by block, and no document spans a gap.
TEST_F(DataTest, SplitCoversEveryBlockOnce) {
  const std::string content = text(64 * 200 + 17, 1);
  write("one.txt", content);
  const auto corpus = open(4);
  EXPECT_EQ(corpus->size(Split::train) + corpus->size(Split::held_out), static_cast<int64_t>(content.size()));
  EXPECT_NEAR(corpus->size(Split::held_out) / 64.0, 50, 25);
  std::map<size_t, char> found;
  for (const Split split : {Split::train, Split::held_out}) {
    const Sample all = corpus->read(split, 0, corpus->size(split));
    std::vector<int64_t> bounds = all.document_begin;
    bounds.push_back(static_cast<int64_t>(all.tokens.size()));
    for (size_t i = 0; i + 1 < bounds.size(); ++i) {
      const std::string document(all.tokens.begin() + bounds[i], all.tokens.begin() + bounds[i + 1]);
      const size_t at = content.find(document);
      ASSERT_NE(at, std::string::npos) << "a document joins bytes that are not adjacent in the file";
      EXPECT_EQ(at % 64, 0u);
      for (size_t b = 0; b < document.size(); ++b) EXPECT_TRUE(found.emplace(at + b, document[b]).second);
    }
  }
  EXPECT_EQ(found.size(), content.size());
}

TEST_F(DataTest, SplitFollowsTheFileNotItsPlace) {
  for (int i = 0; i < 60; ++i) write("old/" + std::to_string(i), text(50, 50 * i));
  const auto at = [&](const char* folder) {
    return open_byte_corpus({.paths = {(root_ / folder).string()}, .held_out_every = 4, .block = 64});
  };
  const std::string held_out = bytes(*at("old"), Split::held_out);
  const uint64_t fingerprint = at("old")->fingerprint();
  EXPECT_GT(held_out.size(), 0u);
  fs::rename(root_ / "old", root_ / "new");
  EXPECT_EQ(bytes(*at("new"), Split::held_out), held_out);
  EXPECT_EQ(at("new")->fingerprint(), fingerprint);
  write("new/60", text(50, 0));
  EXPECT_NE(at("new")->fingerprint(), fingerprint);
  const auto other =
      open_byte_corpus({.paths = {(root_ / "new").string()}, .held_out_every = 4, .block = 64, .seed = 1});
  EXPECT_NE(bytes(*other, Split::held_out), held_out);
}

TEST_F(DataTest, ChangedFileIsAnError) {
  write("a.txt", "abcdef");
  const auto corpus = open(0);
  write("a.txt", "abc");
  EXPECT_THROW(corpus->read(Split::train, 0, 6), Error);
}

std::string text_of(const MicroBatch& batch) {
  const std::vector<int32_t> tokens = values(batch.tokens);
  return {tokens.begin(), tokens.end()};
}

// Windows of one epoch, located in the split by their content.
std::vector<int64_t> window_order(const BatchSource& source, const std::string& stream, int64_t first,
                                  int64_t count, int64_t L) {
  std::vector<int64_t> order;
  for (int64_t i = first; i < first + count; ++i) {
    const MicroBatch batch = source.get(i);
    order.push_back(static_cast<int64_t>(stream.find(text_of(batch))) / L);
  }
  return order;
}

TEST_F(DataTest, EveryWindowOnceAnEpochInAnotherOrder) {
  const std::string content = text(16 * 37, 3);
  write("a.txt", content);
  const auto corpus = open(0);
  const BatchSource source(*corpus, {.seq_len = 16, .micro_batch = 1, .seed = 5});
  ASSERT_EQ(source.epoch_sequences(), 37);
  std::vector<std::vector<int64_t>> orders;
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    orders.push_back(window_order(source, content, epoch * 37, 37, 16));
    EXPECT_EQ(std::set<int64_t>(orders.back().begin(), orders.back().end()).size(), 37u) << "epoch " << epoch;
    EXPECT_FALSE(std::is_sorted(orders.back().begin(), orders.back().end()));
  }
  EXPECT_NE(orders[0], orders[1]);
  const BatchSource other(*corpus, {.seq_len = 16, .micro_batch = 1, .seed = 6});
  EXPECT_NE(window_order(other, content, 0, 37, 16), orders[0]);
}

// A micro-batch of B sequences equals B micro-batches of one, so neither layout nor micro-batch size changes
// the order of the data.
TEST_F(DataTest, NumberAloneDecidesTheContent) {
  write("a.txt", text(1000, 4));
  write("b.txt", text(333, 9));
  const auto corpus = open(0), again = open(0);
  const BatchSource threes(*corpus, {.seq_len = 32, .micro_batch = 3, .seed = 1});
  const BatchSource ones(*again, {.seq_len = 32, .micro_batch = 1, .seed = 1});
  for (const int64_t i : {40, 0, 7}) {  // any order, over the end of an epoch
    const MicroBatch batch = threes.get(i);
    ASSERT_EQ(batch.rows(), 96);
    std::vector<int32_t> tokens, labels;
    std::vector<int64_t> documents;
    for (int64_t b = 0; b < 3; ++b) {
      const MicroBatch one = ones.get(3 * i + b);
      for (const int32_t token : values(one.tokens)) tokens.push_back(token);
      for (const int32_t label : values(one.labels)) labels.push_back(label);
      for (size_t k = 0; k + 1 < one.documents.size(); ++k) documents.push_back(32 * b + one.documents[k]);
    }
    documents.push_back(96);
    EXPECT_EQ(values(batch.tokens), tokens);
    EXPECT_EQ(values(batch.labels), labels);
    EXPECT_EQ(batch.documents, documents);
  }
}

TEST_F(DataTest, WindowsKeepDocumentsAndLookOneAhead) {
  write("1.txt", "abcdef");
  write("2.txt", "ghi");
  const auto corpus = open(0);
  const BatchSource source(*corpus, {.seq_len = 4, .micro_batch = 1, .seed = 0});
  ASSERT_EQ(source.epoch_sequences(), 2);  // a third would hold only the last token
  MicroBatch first = source.get(0), second = source.get(1);
  if (values(first.tokens)[0] != 'a') std::swap(first, second);
  EXPECT_EQ(values(first.tokens), (std::vector<int32_t>{'a', 'b', 'c', 'd'}));
  EXPECT_EQ(values(first.labels), (std::vector<int32_t>{'b', 'c', 'd', 'e'}));
  EXPECT_EQ(first.documents, (std::vector<int64_t>{0, 4}));
  EXPECT_EQ(values(second.tokens), (std::vector<int32_t>{'e', 'f', 'g', 'h'}));
  EXPECT_EQ(values(second.labels), (std::vector<int32_t>{'f', kNoLabel, 'h', 'i'}));
  EXPECT_EQ(second.documents, (std::vector<int64_t>{0, 2, 4}));
}

TEST_F(DataTest, ShortStreamIsPadded) {
  write("a.txt", "abc");
  const auto corpus = open(0);
  const MicroBatch batch = BatchSource(*corpus, {.seq_len = 5, .micro_batch = 1}).get(0);
  EXPECT_EQ(values(batch.tokens), (std::vector<int32_t>{'a', 'b', 'c', 0, 0}));
  EXPECT_EQ(values(batch.labels), (std::vector<int32_t>{'b', 'c', kNoLabel, kNoLabel, kNoLabel}));
  EXPECT_EQ(batch.documents, (std::vector<int64_t>{0, 3, 5}));
  write("a.txt", "a");
  EXPECT_THROW(BatchSource(*open(0), {.seq_len = 5}), Error);
}

TEST_F(DataTest, HeldOutBatchesAreTheHeldOutStreamInOrder) {
  write("a.txt", text(64 * 100, 7));
  const auto corpus = open(5);
  const std::string stream = bytes(*corpus, Split::held_out), train = bytes(*corpus, Split::train);
  const BatchSource source(*corpus, {.seq_len = 48, .micro_batch = 2});
  std::string seen;
  for (int64_t i = 0; i < source.held_out_count(); ++i) {
    const MicroBatch batch = source.held_out(i);
    EXPECT_EQ(batch.rows(), 96);
    EXPECT_EQ(batch.documents.front(), 0);
    EXPECT_EQ(batch.documents.back(), 96);
    EXPECT_TRUE(std::is_sorted(batch.documents.begin(), batch.documents.end()));
    EXPECT_TRUE(std::binary_search(batch.documents.begin(), batch.documents.end(), 48));
    seen += text_of(batch);
  }
  ASSERT_GE(seen.size(), stream.size() - 1);
  EXPECT_EQ(seen.substr(0, stream.size()), stream);
  EXPECT_EQ(train.find(stream.substr(0, 32)), std::string::npos);
  const MicroBatch beyond = source.held_out(source.held_out_count());
  EXPECT_EQ(values(beyond.labels), std::vector<int32_t>(96, kNoLabel));
  EXPECT_EQ(beyond.documents, (std::vector<int64_t>{0, 48, 96}));
}

}  // namespace
}  // namespace wuneng::data_test
