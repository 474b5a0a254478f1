#include "runtime/safetensors.h"

#include <gmock/gmock.h>

#include <cstring>
#include <filesystem>
#include <fstream>

namespace wuneng::safetensors_test {
namespace {

namespace fs = std::filesystem;

class Safetensors : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / ("wuneng_safetensors_" + std::to_string(getpid()));
    fs::create_directories(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }

  std::string file(const std::string& header, size_t data, int64_t length = -1) {
    const std::string path = directory_ / "model.safetensors";
    std::ofstream out(path, std::ios::binary);
    const uint64_t n = length < 0 ? header.size() : length;
    out.write(reinterpret_cast<const char*>(&n), 8);
    out << header << std::string(data, '\1');
    return path;
  }
  // The error message of opening such a file.
  std::string refusal(const std::string& header, size_t data, int64_t length = -1) {
    try {
      SafetensorsFile opened(file(header, data, length));
    } catch (const Error& e) {
      return e.what();
    }
    return "accepted";
  }
  fs::path directory_;
};

TEST_F(Safetensors, WritesAndReadsBackInOneFileAndInSeveral) {
  const Tensor a = Tensor::from<float>({1, 2, 3, 4, 5, 6}, {2, 3}),
               b = Tensor::from<bf16>({bf16(1.5f), bf16(-2.0f), bf16(3.0f)}, {3});
  for (const int64_t limit : {int64_t{1} << 30, int64_t{10}}) {
    const fs::path to = directory_ / std::to_string(limit);
    write_safetensors(to, {{"a", DType::f32, {2, 3}}, {"b", DType::bf16, {3}}}, limit,
                      [&](const SafetensorsItem& i) { return i.name == "a" ? a : b; });
    EXPECT_EQ(fs::exists(to / "model.safetensors.index.json"), limit == 10);
    const SafetensorsDirectory read(to);
    EXPECT_THAT(read.names(), testing::ElementsAre("a", "b"));
    EXPECT_EQ(std::memcmp(read.tensor("a").raw(), a.raw(), a.bytes()), 0);
    EXPECT_EQ(std::memcmp(read.tensor("b").raw(), b.raw(), b.bytes()), 0);
    EXPECT_EQ(read.tensor("a").shape(), a.shape());
    EXPECT_THROW(read.tensor("c"), Error);
  }
}

TEST_F(Safetensors, ReadsMisalignedData) {
  // A header of odd length moves the data off its alignment.
  const SafetensorsFile f(file(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} )", 4));
  EXPECT_EQ(*reinterpret_cast<const uint32_t*>(f.tensor("x").raw()), 0x01010101u);
}

TEST_F(Safetensors, AcceptsEmptyAndScalarTensors) {
  const SafetensorsFile f(file(R"({"e":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]},)"
                               R"("s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})",
                               4));
  EXPECT_EQ(f.tensor("e").numel(), 0);
  EXPECT_EQ(f.tensor("s").numel(), 1);
}

TEST_F(Safetensors, RefusesBrokenFiles) {
  using testing::HasSubstr;
  const std::string good = R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  EXPECT_EQ(refusal(good, 8), "accepted");
  EXPECT_THAT(refusal(good, 8, 1000), HasSubstr("header"));
  EXPECT_THAT(refusal(good, 8, 200'000'000), HasSubstr("header"));
  EXPECT_THAT(refusal(good, 9), HasSubstr("the file holds 9"));
  EXPECT_THAT(refusal(std::string(200000, '['), 0), HasSubstr("nested at most 200 deep"));
  EXPECT_THAT(refusal(R"({"a[[\"[":)" + std::string(199, '[') + std::string(199, ']') + "}", 0),
              HasSubstr("tensor a[[\"[: expected dtype"));  // brackets in strings do not count
  EXPECT_THAT(refusal(good, 7), HasSubstr("the file holds 7"));
  EXPECT_THAT(refusal("{\"x\"", 8), HasSubstr("not JSON"));
  EXPECT_THAT(refusal("\xff\xfe", 0), HasSubstr("not JSON"));
  EXPECT_THAT(refusal("[1]", 0), HasSubstr("not a JSON object"));
  EXPECT_THAT(refusal(R"({"x":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}})", 8), HasSubstr("F99"));
  EXPECT_THAT(refusal(R"({"x":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8),
              HasSubstr("takes 12 bytes"));
  EXPECT_THAT(refusal(R"({"x":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8),
              HasSubstr("whole number"));
  EXPECT_THAT(refusal(R"({"x":{"dtype":"F32","shape":[4611686018427387904,8],"data_offsets":[0,8]}})", 8),
              HasSubstr("overflows"));
  EXPECT_THAT(refusal(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8),
              HasSubstr("gap or overlap"));
  EXPECT_THAT(refusal(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                      R"("y":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                      4),
              HasSubstr("gap or overlap"));
  EXPECT_THAT(refusal(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                      R"("x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                      8),
              HasSubstr("duplicate key"));
  EXPECT_THAT(refusal(R"({"__metadata__":{"a":1}})", 0), HasSubstr("not a string"));
}

TEST_F(Safetensors, IndexNamesPlainFilesOnly) {
  for (const char* name : {"../model.safetensors", "/etc/passwd", "a/b", ""}) {
    std::ofstream(directory_ / "model.safetensors.index.json") << R"({"weight_map":{"x":")" << name << "\"}}";
    EXPECT_THROW(SafetensorsDirectory{directory_.string()}, Error) << name;
  }
}

}  // namespace
}  // namespace wuneng::safetensors_test
