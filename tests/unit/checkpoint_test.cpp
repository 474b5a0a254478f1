#include "runtime/checkpoint.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <numeric>

namespace wuneng {
namespace {

namespace fs = std::filesystem;

class Checkpoint : public testing::Test {
 protected:
  void SetUp() override {
    root_ = (fs::temp_directory_path() / ("wuneng_checkpoint_" + std::to_string(getpid()))).string();
    fs::remove_all(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  std::string save(int64_t step, float offset) {
    return save_checkpoint(Comm(), root_, step,
                           {{"w", {6, 5}, {0, 0}, whole(offset)},
                            {"b", {3}, {0}, Tensor::from<bf16>({bf16(1.0f), bf16(2.0f), bf16(offset)}, {3})}},
                           {{"note", step}});
  }
  static Tensor whole(float offset) {
    const Tensor t = Tensor::empty({6, 5});
    std::iota(t.f32(), t.f32() + 30, offset);
    return t;
  }
  static void flip_bit(const std::string& path, int64_t at) {
    std::fstream f(path, std::ios::in | std::ios::out | std::ios::binary);
    f.seekg(at);
    char c = 0;
    f.get(c);
    f.seekp(at);
    f.put(static_cast<char>(c ^ 4));
  }
  std::string root_;
};

TEST_F(Checkpoint, AnyRectangleReadsBack) {
  save(7, 100);
  CheckpointReader reader(root_);
  EXPECT_EQ(reader.step(), 7);
  EXPECT_EQ(reader.meta().at("note"), 7);
  EXPECT_EQ(reader.dtype("b"), DType::bf16);
  const Tensor part = Tensor::empty({3, 2});
  reader.read("w", {2, 1}, part);
  EXPECT_THAT(std::vector<float>(part.f32(), part.f32() + 6),
              testing::ElementsAre(111, 112, 116, 117, 121, 122));
  EXPECT_THROW(reader.read("w", {4, 0}, Tensor::empty({3, 5})), Error);
  EXPECT_THROW(reader.read("nothing"), Error);
}

TEST_F(Checkpoint, GapsAndOverlapsAreRefusedAndTheOldOneStays) {
  save(1, 0);
  const auto attempt = [&](std::vector<CheckpointPiece> pieces) -> std::string {
    try {
      save_checkpoint(Comm(), root_, 2, pieces, {});
    } catch (const Error& e) {
      return e.what();
    }
    return "accepted";
  };
  EXPECT_THAT(attempt({{"w", {6, 5}, {0, 0}, Tensor::zeros({5, 5})}}),
              testing::HasSubstr("hold 25 of 30 elements"));
  EXPECT_THAT(attempt({{"w", {6, 5}, {3, 0}, Tensor::zeros({4, 5})}}), testing::HasSubstr("lies outside"));
  EXPECT_EQ(CheckpointReader(root_).step(), 1);
}

TEST_F(Checkpoint, DamageIsFoundAndTheOlderOneIsUsed) {
  save(1, 0);
  const std::string newest = save(2, 50);
  EXPECT_EQ(CheckpointReader(root_).step(), 2);
  const std::string shard = newest + "/shard_00000.h5";
  const auto size = static_cast<int64_t>(fs::file_size(shard));
  for (int64_t at = 0; at < size; at += std::max<int64_t>(1, size / 40)) {
    flip_bit(shard, at);
    EXPECT_THROW(CheckpointReader(newest).read("w"), Error) << "bit in byte " << at;
    EXPECT_EQ(CheckpointReader(root_).step(), 1) << "bit in byte " << at;
    flip_bit(shard, at);
  }
  fs::resize_file(shard, size - 1);
  EXPECT_EQ(CheckpointReader(root_).step(), 1);
  fs::remove(shard);
  EXPECT_EQ(CheckpointReader(root_).step(), 1);
}

TEST_F(Checkpoint, APartialOneIsNotThere) {
  save(1, 0);
  fs::create_directories(root_ + "/step_00000009.partial");
  EXPECT_EQ(CheckpointReader(root_).step(), 1);
  EXPECT_TRUE(has_checkpoint(root_));
  EXPECT_FALSE(has_checkpoint(root_ + "/step_00000009.partial"));
}

TEST_F(Checkpoint, ManifestCannotReachOutside) {
  const std::string directory = save(1, 0);
  std::ifstream in(directory + "/manifest.json");
  std::string text((std::istreambuf_iterator<char>(in)), {});
  in.close();
  text.replace(text.find("shard_00000.h5"), 14, "../../../secret");
  std::ofstream(directory + "/manifest.json") << text;
  EXPECT_THROW(CheckpointReader{directory}, Error);
}

TEST_F(Checkpoint, PruneKeepsTheNewest) {
  for (int64_t step : {1, 2, 3, 4}) save(step, 0);
  prune_checkpoints(root_, 2);
  EXPECT_FALSE(fs::exists(root_ + "/step_00000002"));
  EXPECT_TRUE(fs::exists(root_ + "/step_00000003"));
  EXPECT_EQ(CheckpointReader(root_).step(), 4);
}

}  // namespace
}  // namespace wuneng
