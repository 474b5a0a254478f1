#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <numeric>

#include "runtime/checkpoint/reader.h"
#include "runtime/checkpoint/writer.h"
#include "runtime/hash.h"
#include "tests/error_of.h"
#include "tests/unit/scratch_dir.h"
#include "tests/unit/tensor_values.h"

namespace wuneng::checkpoint_test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

Tensor counting(const Shape& shape, float first) {
  const Tensor t = Tensor::empty(shape);
  std::iota(t.f32(), t.f32() + t.numel(), first);
  return t;
}

void write_text(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

// Saves at once. Returns the directory.
std::string save_checkpoint(const CheckpointOptions& options, int64_t step,
                            const std::vector<CheckpointPiece>& pieces, const nlohmann::json& meta) {
  CheckpointWriter writer(Comm(), options);
  writer.begin(step, pieces, meta);
  writer.finish();
  return options.root + "/" + checkpoint_name(step);
}

class Checkpoint : public ScratchTest {
 protected:
  CheckpointOptions options(int64_t keep = 0) const {
    CheckpointOptions o;
    o.root = root();
    o.keep = keep;
    o.run = "a run";
    o.writer = "test";
    return o;
  }
  std::string save(int64_t step, float offset, int64_t keep = 0) const {
    return save_checkpoint(options(keep), step, pieces(offset), {{"note", step}});
  }
  static std::vector<CheckpointPiece> pieces(float offset) {
    return {{"w", {6, 5}, {0, 0}, counting({6, 5}, offset)},
            {"deep/b", {3}, {0}, Tensor::from<bf16>({bf16(1.0f), bf16(2.0f), bf16(offset)}, {3})}};
  }
  static void flip_bit(const std::string& path, int64_t at) {
    std::string bytes = read_file(path);
    bytes[at] = static_cast<char>(bytes[at] ^ 4);
    write_text(path, bytes);
  }
  int64_t newest() const { return CheckpointReader(newest_whole_checkpoint(root())).step(); }

  std::string root() const { return path("checkpoints"); }
};

TEST_F(Checkpoint, AnyRectangleReadsBack) {
  save(7, 100);
  CheckpointReader reader(root());
  EXPECT_EQ(reader.step(), 7);
  EXPECT_EQ(reader.meta().at("note"), 7);
  EXPECT_EQ(reader.dtype("deep/b"), DType::bf16);
  const Tensor part = Tensor::empty({3, 2});
  reader.read("w", {2, 1}, part);
  EXPECT_THAT(values<float>(part), testing::ElementsAre(111, 112, 116, 117, 121, 122));
  EXPECT_THROW(reader.read("w", {4, 0}, Tensor::empty({3, 5})), Error);
  EXPECT_THROW(reader.read("nothing"), Error);
}

// As ranks save that hold a range of elements: a part of a row, whole rows and a part of a row.
TEST_F(Checkpoint, ATensorMayHaveSeveralPartsInAFile) {
  const Tensor whole = counting({6, 5}, 0), flat = whole.view({30});
  save_checkpoint(options(), 1,
                  {{"w", {6, 5}, {0, 0}, flat.rows(0, 10).view({2, 5})},
                   {"w", {6, 5}, {2, 0}, flat.rows(10, 13).view({1, 3})},
                   {"w", {6, 5}, {2, 3}, flat.rows(13, 15).view({1, 2})},
                   {"w", {6, 5}, {3, 0}, flat.rows(15, 30).view({3, 5})}},
                  {});
  CheckpointReader reader(root());
  EXPECT_EQ(values<float>(reader.read("w")), values<float>(whole));
  const Tensor part = Tensor::empty({3, 2});
  reader.read("w", {1, 2}, part);
  EXPECT_THAT(values<float>(part), testing::ElementsAre(7, 8, 12, 13, 17, 18));
  EXPECT_NO_THROW(reader.verify());
}

// Of all pairs and triples of rectangles, those are accepted that cover each element once.
TEST_F(Checkpoint, PartsTileATensorOrAreRefused) {
  const Shape shape = {3, 2};
  std::vector<StoredPart> all;
  for (int64_t r = 0; r < 3; ++r)
    for (int64_t c = 0; c < 2; ++c)
      for (int64_t rows = 1; rows <= 3 - r; ++rows)
        for (int64_t columns = 1; columns <= 2 - c; ++columns)
          all.push_back({0, {r, c}, {rows, columns}, 0, {}});
  int64_t accepted = 0;
  const auto check = [&](const std::vector<StoredPart>& parts) {
    std::vector<int> times(6);
    for (const StoredPart& p : parts)
      for (int64_t r = p.begin[0]; r < p.begin[0] + p.size[0]; ++r)
        for (int64_t c = p.begin[1]; c < p.begin[1] + p.size[1]; ++c) ++times[r * 2 + c];
    const bool once = times == std::vector<int>(6, 1);
    const bool taken = error_of([&] { check_tiling("w", {DType::f32, shape, parts}); }) == "no error";
    EXPECT_EQ(taken, once);
    accepted += taken;
  };
  for (const StoredPart& a : all)
    for (const StoredPart& b : all) {
      check({a, b});
      for (const StoredPart& c : all) check({a, b, c});
    }
  EXPECT_GT(accepted, 10);
}

// Several blocks a part, and rectangles that begin and end inside of them.
TEST_F(Checkpoint, LargePartsAreReadByBlocks) {
  const int64_t rows = 5, width = kBlockBytes / 4 - 3;  // rows do not end where blocks do
  const Tensor whole = Tensor::empty({rows, width});
  for (int64_t i = 0; i < whole.numel(); ++i) whole.f32()[i] = static_cast<float>(i % 65521);
  const std::string directory = save_checkpoint(options(), 1, {{"w", {rows, width}, {0, 0}, whole}}, {});
  const Tensor part = Tensor::empty({2, 7});
  CheckpointReader(directory).read("w", {3, width - 7}, part);
  for (int64_t r = 0; r < 2; ++r)
    for (int64_t c = 0; c < 7; ++c)
      ASSERT_EQ(part.f32()[r * 7 + c], whole.f32()[(3 + r) * width + width - 7 + c]) << r << ", " << c;
  // Damage in the first block is not seen by a reader of the last, and by verify().
  flip_bit(directory + "/shard_00000.h5", 1 << 20);
  CheckpointReader(directory).read("w", {4, width - 7}, Tensor::empty({1, 7}));
  EXPECT_THAT(error_of([&] {
                CheckpointReader(directory).read("w", {0, 0}, Tensor::empty({1, 7}));
              }),
              HasSubstr("tensor w: damaged"));
  EXPECT_THAT(error_of([&] { CheckpointReader(directory).verify(); }), HasSubstr("tensor w: damaged"));
}

TEST_F(Checkpoint, GapsOverlapsAndBadElementsAreRefusedAndTheOldOneStays) {
  save(1, 0);
  const auto attempt = [&](const std::vector<CheckpointPiece>& pieces) {
    return error_of([&] { save_checkpoint(options(), 2, pieces, {}); });
  };
  EXPECT_THAT(attempt({{"w", {6, 5}, {0, 0}, Tensor::zeros({5, 5})}}), HasSubstr("hold 25 of 30 elements"));
  EXPECT_THAT(attempt({{"w", {6, 5}, {3, 0}, Tensor::zeros({4, 5})}}), HasSubstr("lies outside"));
  for (const float bad : {NAN, INFINITY, -INFINITY})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Tensor t = Tensor::zeros({6, 5});
      t.f32()[17] = bad;
      EXPECT_THAT(attempt({{"optimizer/w/m", {6, 5}, {0, 0}, t.to(dtype)}}),
                  HasSubstr("tensor optimizer/w/m: an element is not finite"));
    }
  EXPECT_EQ(newest(), 1);
}

// A bit of any byte of any file: the older checkpoint is used, and a direct reader says what is damaged. With
// WUNENG_TEST_LONG every byte, else a sample.
TEST_F(Checkpoint, DamageIsFoundAndTheOlderOneIsUsed) {
  save(1, 0);
  const std::string directory = save(2, 50);
  EXPECT_EQ(newest(), 2);
  for (const char* name : {"shard_00000.h5", "index.h5", "manifest.json"}) {
    const std::string file = directory + "/" + name;
    const auto size = static_cast<int64_t>(fs::file_size(file));
    for (int64_t at = 0; at < size;
         at += std::getenv("WUNENG_TEST_LONG") ? 1 : std::max<int64_t>(1, size / 100)) {
      flip_bit(file, at);
      EXPECT_NE(error_of([&] { CheckpointReader(directory).verify(); }), "no error")
          << name << " byte " << at;
      EXPECT_EQ(newest(), 1) << name << " byte " << at;
      flip_bit(file, at);
    }
    fs::resize_file(file, size - 1);
    EXPECT_EQ(newest(), 1) << name << " truncated";
    fs::remove(file);
    EXPECT_EQ(newest(), 1) << name << " removed";
    fs::remove_all(directory);
    save(2, 50);
  }
}

TEST_F(Checkpoint, LatestDecidesWhereItIsWhole) {
  save(1, 0);
  save(2, 0);
  const std::string latest = root() + "/latest", whole = read_file(latest);
  write_text(latest, "step_00000001\n");  // by hand
  EXPECT_EQ(newest(), 1);
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string text = whole;
    text[at] = static_cast<char>(text[at] ^ 1);
    write_text(latest, text);
    EXPECT_EQ(newest(), 2) << text;
    EXPECT_EQ(list_checkpoints(root()).problems.size(), std::isspace(text[at]) ? 0 : 1) << text;
    write_text(latest, whole.substr(0, at));
    EXPECT_EQ(newest(), 2) << whole.substr(0, at);
  }
  write_text(latest, whole);
  for (const int64_t step : {1, 2}) fs::remove_all(root() + "/" + checkpoint_name(step));
  EXPECT_TRUE(has_checkpoint(root()));  // not a fresh start
  EXPECT_THAT(error_of([&] { newest_whole_checkpoint(root()); }), HasSubstr("expected a whole checkpoint"));
}

TEST_F(Checkpoint, AnotherStepOrRunIsNotTaken) {
  const std::string one = save(1, 0), two = save(2, 0);
  fs::remove_all(two);
  fs::copy(one, two);
  EXPECT_THAT(error_of([&] { CheckpointReader{two}; }),
              HasSubstr("checkpoint of step 2, found that of step 1"));
  EXPECT_EQ(newest(), 1);
  EXPECT_EQ(newest_whole_checkpoint(root(), Comm(), "a run"), one);
  EXPECT_THAT(error_of([&] { newest_whole_checkpoint(root(), Comm(), "b run"); }),
              HasSubstr("expected one of run b run, found run a run"));
}

// Numbers that a sum or a product would overflow, in a manifest with a right checksum.
TEST_F(Checkpoint, ManifestsThatDoNotAddUpAreRefused) {
  const std::string directory = save(1, 0);
  const auto attempt = [&](const auto& change) {
    Manifest m = read_manifest(directory);
    change(m);
    return error_of([text = m.dump()] { Manifest::parse(text, "here"); });
  };
  const int64_t huge = INT64_MAX;
  EXPECT_EQ(attempt([](Manifest&) {}), "no error");
  EXPECT_THAT(attempt([&](Manifest& m) { m.tensors["w"].shape = {huge, 5}; }), HasSubstr("overflows"));
  EXPECT_THAT(attempt([&](Manifest& m) {
                m.tensors["w"].parts[0].begin = {huge, 0};
              }),
              HasSubstr("lies outside"));
  EXPECT_THAT(attempt([&](Manifest& m) {
                m.tensors["w"].parts[0].size = {huge, 5};
              }),
              HasSubstr("overflows"));
  EXPECT_THAT(attempt([&](Manifest& m) { m.tensors["w"].parts[0].offset = huge; }), HasSubstr("inside of"));
  EXPECT_THAT(attempt([&](Manifest& m) { m.tensors["w"].parts[0].shard = 1; }), HasSubstr("shard file in"));
  EXPECT_THAT(attempt([&](Manifest& m) { m.tensors["w"].parts.clear(); }), HasSubstr("0 of 30"));
  EXPECT_THAT(attempt([&](Manifest& m) { m.tensors["w"].parts[0].hashes.clear(); }),
              HasSubstr("1 checksums"));
  EXPECT_THAT(attempt([&](Manifest& m) { m.shards[0].name = "../../secret"; }), HasSubstr("plain file name"));
  EXPECT_THAT(attempt([&](Manifest& m) { m.step = -1; }), HasSubstr("whole number"));
}

// Directories that a save, a replacement or a removal left when it was cut short.
TEST_F(Checkpoint, WhatWasCutShortIsNotTakenAndCleanedUp) {
  const std::string one = save(1, 0), two = save(2, 0);
  fs::copy(one, root() + "/step_00000009.lease-3.partial");
  fs::rename(two, two + ".replaced");  // its successor did not come
  fs::copy(one, one + ".replaced");    // its successor came
  fs::copy(one, root() + "/step_00000004.removing");
  EXPECT_FALSE(has_checkpoint(root() + "/step_00000009"));
  EXPECT_EQ(newest(), 2);
  clean_checkpoints(root());
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(root())) names.push_back(entry.path().filename());
  EXPECT_THAT(names, testing::UnorderedElementsAre("latest", "step_00000001", "step_00000002"));
  EXPECT_EQ(newest(), 2);
}

TEST_F(Checkpoint, PruningKeepsTheLastSavedWhateverTheirSteps) {
  for (const int64_t step : {30, 40}) save(step, 0);
  for (const int64_t step : {10, 25}) save(step, 0, 2);
  EXPECT_FALSE(fs::exists(root() + "/step_00000040"));
  EXPECT_TRUE(fs::exists(root() + "/step_00000010"));
  EXPECT_EQ(newest(), 25);
  save(10, 5, 2);  // replaces one
  EXPECT_EQ(newest(), 10);
  EXPECT_TRUE(fs::exists(root() + "/step_00000025"));
}

TEST_F(Checkpoint, BackgroundSavesAreIdenticalAndTakeTheStateOfTheirBeginning) {
  save(3, 7);
  CheckpointOptions background = options();
  background.root = path("background");
  background.background = true;
  CheckpointWriter writer(Comm(), background);
  const std::vector<CheckpointPiece> state = pieces(7);
  writer.begin(3, state, {{"note", 3}});
  writer.wait_until_captured();
  state[0].data.zero();  // the next step
  while (!fs::exists(background.root + "/latest")) writer.poll();
  writer.finish();
  for (const char* file :
       {"latest", "step_00000003/manifest.json", "step_00000003/index.h5", "step_00000003/shard_00000.h5"})
    EXPECT_EQ(read_file(root() + "/" + file), read_file(background.root + "/" + file)) << file;
}

TEST_F(Checkpoint, AFailedBackgroundSaveIsAnErrorOfTheNextPoll) {
  CheckpointOptions background = options();
  background.background = true;
  CheckpointWriter writer(Comm(), background);
  const Tensor bad = Tensor::zeros({2});
  bad.f32()[1] = NAN;
  writer.begin(1, {{"w", {2}, {0}, bad}}, {});
  EXPECT_THAT(error_of([&] {
                for (;;) writer.poll();
              }),
              HasSubstr("checkpoint: rank 0 of self: tensor w: an element is not finite"));
  EXPECT_FALSE(has_checkpoint(root()));
}

// A writer whose directory another process has taken.
TEST_F(Checkpoint, AForeignWriterDoesNotCommit) {
  save(1, 0);
  CheckpointOptions late = options();
  late.check_may_commit = [] { fail("this run may not write any more"); };
  EXPECT_THAT(error_of([&] { save_checkpoint(late, 2, pieces(0), {}); }), HasSubstr("may not write"));
  EXPECT_EQ(newest(), 1);
}

TEST_F(Checkpoint, ReplicasWriteEqualShares) {
  const std::vector<CheckpointPiece> all = {{"a", {7, 3}, {0, 0}, counting({7, 3}, 0)},
                                            {"b", {2}, {0}, counting({2}, 50)},
                                            {"c", {40, 1}, {10, 0}, counting({30, 1}, 90)}};
  for (const int replicas : {1, 2, 3, 5}) {
    std::vector<float> joined;
    for (int r = 0; r < replicas; ++r)
      for (const CheckpointPiece& p : share_of_pieces(all, r, replicas)) {
        EXPECT_LE(p.data.bytes(), 53 * 4 / replicas + 12);
        for (const float v : values<float>(p.data)) joined.push_back(v);
        const float first = p.name == "a" ? 0.0f : p.name == "b" ? 50.0f : 80.0f;
        EXPECT_EQ(p.data.f32()[0], first + static_cast<float>(p.begin[0] * (p.name == "a" ? 3 : 1)));
      }
    std::vector<float> expected;
    for (const CheckpointPiece& p : all)
      for (const float v : values<float>(p.data)) expected.push_back(v);
    EXPECT_EQ(joined, expected) << replicas << " replicas";
  }
}

// As saved before 2026-11-26: one checksum a shard file, no places of elements.
TEST_F(Checkpoint, Version1IsRead) {
  const std::string directory = save(4, 60);
  const Manifest m = read_manifest(directory);
  nlohmann::json old = {{"format", "wuneng checkpoint"}, {"version", 1}, {"step", 4}, {"meta", m.meta}};
  for (const StoredFile& f : m.shards) {
    const std::string bytes = read_file(directory + "/" + f.name);
    old["shards"].push_back({{"file", f.name},
                             {"size", f.size},
                             {"xxh3", hash_text(hash_of(bytes.data(), static_cast<int64_t>(bytes.size())))}});
  }
  for (const auto& [name, t] : m.tensors)
    old["tensors"][name] = {
        {"dtype", std::string(to_string(t.dtype))},
        {"shape", t.shape},
        {"parts", {{{"shard", 0}, {"begin", t.parts[0].begin}, {"size", t.parts[0].size}}}}};
  write_text(directory + "/manifest.json", old.dump(1));
  write_text(root() + "/latest", "step_00000004\n");
  EXPECT_EQ(newest(), 4);
  EXPECT_EQ(values<float>(CheckpointReader(directory).read("w")), values<float>(counting({6, 5}, 60)));
  flip_bit(directory + "/shard_00000.h5", 1000);
  EXPECT_THAT(error_of([&] { CheckpointReader{directory}; }), HasSubstr("damaged"));
}

}  // namespace
}  // namespace wuneng::checkpoint_test
