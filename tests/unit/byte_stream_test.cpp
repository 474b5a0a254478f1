// Files as they come: packed by all the tools, in several members, cut short, damaged, in other encodings,
// and files that are no text.
#include "data/text/byte_stream.h"

#include <gmock/gmock.h>

#include "data/text/encoding.h"
#include "data/text/file_kind.h"
#include "data/text/text_file.h"
#include "runtime/error.h"
#include "tests/error_of.h"
#include "tests/unit/packed.h"
#include "tests/unit/scratch_dir.h"

namespace wuneng::byte_stream_test {
namespace {

using namespace std::string_literals;
using ::testing::AllOf;
using ::testing::HasSubstr;

// Compresses well in some places and not in others.
std::string long_text(int64_t bytes) {
  std::string text;
  uint64_t x = 1;
  while (static_cast<int64_t>(text.size()) < bytes) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    text += x >> 63 ? std::string((x >> 40) % 300, 'a' + char(x >> 33) % 26) : std::to_string(x) + "\n";
  }
  return text;
}

class ByteStreamTest : public ScratchTest {
 protected:
  std::string unpacked(const std::string& name, int64_t piece = 1000) const {
    const auto stream = open_unpacked(path(name));
    std::string out, buffer(piece, '\0');
    while (const int64_t got = stream->read(buffer.data(), piece)) out.append(buffer, 0, got);
    EXPECT_EQ(stream->consumed(), static_cast<int64_t>(std::filesystem::file_size(path(name))));
    return out;
  }
  std::string text(const std::string& name, const std::string& encoding = "", int64_t piece = 1000) const {
    const auto stream = open_text(path(name), encoding);
    std::string out, buffer(piece, '\0');
    while (const int64_t got = stream->read(buffer.data(), piece)) out.append(buffer, 0, got);
    return out;
  }
  std::string refusal(const std::string& name, const std::string& content,
                      TextFormat format = TextFormat::by_name, const std::string& encoding = "") const {
    write(name, content);
    return error_of([&] { check_text_file(path(name), format, encoding); });
  }
};

TEST_F(ByteStreamTest, PackedFilesReadAsPlainOnes) {
  const std::string all = long_text(1 << 20), half = all.substr(0, all.size() / 2),
                    rest = all.substr(half.size());
  const std::pair<const char*, std::string> files[] = {
      {"plain.txt", all},
      {"one.gz", gzip(all)},
      {"members.gz", gzip(half) + gzip("") + gzip(rest)},
      {"padded.GZ", gzip(half) + gzip(rest) + std::string(300000, '\0')},
      {"one.bz2", bzip2(all)},
      {"members.bz2", bzip2(half) + bzip2("") + bzip2(rest)},
      {"one.xz", xz(all)},
      {"streams.xz", xz(half) + std::string(8, '\0') + xz("") + xz(rest) + std::string(4, '\0')},
      {"one.lzma", lzma(all)},
      {"one.zst", zstd(all)},
      {"frames.zstd", zstd(half) + zstd("") + zstd(rest)},
      {"skip_first.zst", skippable("size") + zstd(all)},
      {"skip_all_over.zst", skippable("") + skippable("x", '\x5f') + zstd(half) + skippable(all) +
                                zstd(rest) + skippable("index", '\x5e')},
      {"long_window.zst", zstd(all, 28)},
      {"named_otherwise.txt", bzip2(all)},
  };
  for (const auto& [name, content] : files) {
    write(name, content);
    for (const int64_t piece : {777, 1 << 20, 3 << 20}) EXPECT_TRUE(unpacked(name, piece) == all) << name;
  }
  for (const auto& content : {gzip(""), bzip2(""), xz(""), zstd(""), skippable("nothing else")}) {
    write("empty", content);
    EXPECT_EQ(unpacked("empty"), "");
  }
}

// Each cut is an error, and each flip one unless it is in a part that says nothing about the content.
TEST_F(ByteStreamTest, CutOrDamagedFilesAreErrors) {
  const std::string all = long_text(2100);
  int cut = 0, flipped = 0, harmless = 0;
  for (const auto& file : {std::pair{"a.gz", gzip(all)},
                           {"a.bz2", bzip2(all)},
                           {"a.xz", xz(all)},
                           {"a.zst", zstd(all)},
                           {"b.zst", skippable("1234") + zstd(all)},
                           {"b.gz", gzip(all.substr(0, 100)) + gzip(all.substr(100))}}) {
    const std::string name = file.first, &packed = file.second;
    for (size_t left = 0; left < packed.size(); ++left, ++cut) {
      write(name, packed.substr(0, left));
      // Between members a file may end, so less text is not always an error.
      const std::string error =
          error_of([&] { EXPECT_NE(unpacked(name), all) << name << " cut to " << left; });
      EXPECT_TRUE(error != "no error" || left == gzip(all.substr(0, 100)).size() || left == 12)
          << name << " cut to " << left;
    }
    for (size_t i = 0; i < packed.size(); ++i, ++flipped) {
      std::string changed = packed;
      changed[i] ^= static_cast<char>(1 << i % 8);
      write("damaged", changed);
      error_of([&] {
        // With another first byte it is a file that is not packed.
        const std::string read = unpacked("damaged");
        EXPECT_TRUE(read == all || read == changed) << name << " byte " << i;
        harmless += read == all;
      });
    }
    for (const std::string& bad : {packed + "garbage", "plain text"s, ""s}) {
      write(name, bad);
      EXPECT_NE(error_of([&] { unpacked(name); }), "no error") << name << bad.substr(0, 10);
    }
  }
  EXPECT_GT(cut, 1000);
  EXPECT_GT(flipped, 1000);
  EXPECT_LT(harmless, 60);  // gzip's time and system, the content of frames to skip
}

TEST_F(ByteStreamTest, ErrorsOfPackedFilesSayWhatIsWrong) {
  const auto error = [&](const std::string& name, const std::string& content) {
    write(name, content);
    return error_of([&] { unpacked(name); });
  };
  EXPECT_THAT(error("a.jsonl.bz2", gzip("x")),
              HasSubstr("a.jsonl.bz2: expected a bzip2 file as its name says, found a gzip file"));
  EXPECT_THAT(error("a.GZ", "plain"), HasSubstr("a.GZ: expected a gzip file as its name says, found other"));
  const std::string packed = xz("some text");
  EXPECT_THAT(error("a.xz", packed.substr(0, packed.size() - 1)),
              HasSubstr("a.xz: xz: expected more after byte " + std::to_string(packed.size() - 1)));
  EXPECT_THAT(error("a.bz2", bzip2("x") + "more"),
              AllOf(HasSubstr("a.bz2: bzip2: damaged"), HasSubstr("no member")));
  EXPECT_THAT(error("a.gz", gzip(gzip("x"))), HasSubstr("expected text in a gzip file, found a gzip file"));
  EXPECT_THAT(error("a.gz", gzip(std::string(257, 'n') + "ustar")),
              HasSubstr("expected text in a gzip file, found a tar archive: unpack it"));
}

TEST_F(ByteStreamTest, FilesThatAreNoTextAreRefusedByName) {
  const std::pair<const char*, std::string> marks[] = {
      {"an lz4 file", "\x04\x22\x4d\x18zzz"},
      {"a compress(1) file", "\x1f\x9d\x90"},
      {"an lzip file", "LZIP\x01"},
      {"a Snappy file", "\xff\x06\0\0sNaPpY"s},
      {"a tar archive", std::string(257, 'n') + "ustar  "},
      {"a zip archive", "PK\x03\x04zz"},
      {"a 7z archive", "7z\xbc\xaf\x27\x1c"},
      {"a Parquet file", "PAR1\x15\x04"},
      {"an Arrow file", "ARROW1\0\0"s},
      {"an Arrow file", "\xff\xff\xff\xff\x10"},
      {"an Avro file", "Obj\x01"},
      {"an SQLite database", "SQLite format 3\0"s},
      {"an HDF5 file", "\x89HDF\r\n\x1a\n"},
      {"a PDF document", "%PDF-1.7"},
      {"a NumPy file", "\x93NUMPY\x01"},
      {"a safetensors file", "\x10\0\0\0\0\0\0\0{\"__metadata__\""s},
      {"a GGUF file", "GGUF\x03\0"s},
      {"a pickle", "\x80\x04\x95"},
      {"the index of a token file", "MMIDIDX\0\0"s},
      {"a Git LFS pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n"},
      {"a NUL at byte 3", "abc\0"s},
      {"UTF-16 or UTF-32", "a\0b\0\n\0"s},
  };
  for (const auto& [name, content] : marks)
    for (const TextFormat format : {TextFormat::by_name, TextFormat::text, TextFormat::json_lines}) {
      EXPECT_THAT(refusal("file", content, format), AllOf(HasSubstr(path("file")), HasSubstr(name)));
      EXPECT_THAT(refusal("file.txt.gz", gzip(content), format), HasSubstr(name));
    }
  // By the ending alone, in any case; --format takes it back.
  for (const auto& [name, kind] : {std::pair{"a.parquet", "a Parquet file"},
                                   {"a.PARQUET", "a Parquet file"},
                                   {"a.tsv", "a table"},
                                   {"a.csv.gz", "a table"},
                                   {"a.Zip", "a zip archive"},
                                   {"a.tgz", "a tar archive"},
                                   {"a.tar.xz", "a tar archive"},
                                   {"a.jsonl.incomplete", "an unfinished download"}}) {
    const std::string plain = "some text\n";
    const std::string content = has_ending(name, ".gz")   ? gzip(plain)
                                : has_ending(name, ".xz") ? xz(plain)
                                                          : plain;
    EXPECT_THAT(refusal(name, content),
                AllOf(HasSubstr(kind), HasSubstr("by its name"), HasSubstr("--format text")));
    EXPECT_EQ(refusal(name, content, TextFormat::text), "no error") << name;
  }
  EXPECT_THAT(refusal("a.bin", "{\"text\": \"x\"}\n{\"text\": \"y\"}\n"), HasSubstr("found JSON lines"));
  EXPECT_THAT(refusal("a.jsonl.bak", "\n{\"messages\": []}"), HasSubstr("say --format jsonl"));
  EXPECT_THAT(refusal("a.json", "\n[\n{\"text\": \"x\"}]"),
              AllOf(HasSubstr("found a list"), HasSubstr("jq -c '.[]'")));
  for (const char* fine : {"", "Obj, an object", "PAR1 is a mark", "{\"a\": 1}\n", "{text}",
                           "# {\"text\": 1}", "[1]", "GGUF and LZIP", "BZh is bzip2's", "P*M and (\xc2\xb5/"})
    EXPECT_EQ(refusal("fine.md", fine), "no error") << fine;
  EXPECT_EQ(refusal("fine.JSONL", "{\"text\": 1}"), "no error");
}

TEST_F(ByteStreamTest, BytesAreNotTakenFromPackedFiles) {
  const auto plain = [&](const std::string& name, const std::string& content) {
    write(name, content);
    return error_of([&] { check_plain_text_file(path(name)); });
  };
  EXPECT_THAT(plain("a.txt", gzip("x")),
              AllOf(HasSubstr("found a gzip file"), HasSubstr("--tokenizer bytes")));
  EXPECT_THAT(plain("a.zst", "x"), HasSubstr("found a zstd file"));
  EXPECT_THAT(plain("a.orc", "\xe9\xe9\xe9\xe9\xe9"), HasSubstr("found an ORC file: write its rows"));
  EXPECT_THAT(plain("a.tar", "a\0b"s), HasSubstr("found a tar archive"));
  EXPECT_EQ(plain("a.csv", "1,caf\u00e9"), "no error");
  EXPECT_THAT(plain("a.txt", "\xff\xfex\0"s), HasSubstr("found UTF-16 or UTF-32"));
  EXPECT_THAT(plain("a.txt", "\xff\xfe\0\0"s), HasSubstr("found UTF-16 or UTF-32"));
  EXPECT_EQ(plain("a.txt", "caf\xe9"), "no error");  // a byte is a byte
  EXPECT_EQ(plain("b.txt", "\xef\xbb\xbfx"), "no error");
}

TEST_F(ByteStreamTest, EncodingsBecomeUtf8) {
  const std::u32string wide = U"H\u00e9llo \u4e16\u754c \U0001f600\n";
  std::string utf8 = "H\u00e9llo \u4e16\u754c \U0001f600\n";
  const auto put = [](std::string& to, uint32_t unit, int bytes, bool little) {
    for (int i = 0; i < bytes; ++i) to += static_cast<char>(unit >> 8 * (little ? i : bytes - 1 - i) & 0xff);
  };
  for (int repeat = 0; repeat < 12; ++repeat) utf8 += utf8;  // past the buffers, split at every place
  for (const bool little : {true, false}) {
    std::string sixteen, thirty_two;
    put(sixteen, 0xfeff, 2, little);
    put(thirty_two, 0xfeff, 4, little);
    for (int repeat = 0; repeat < 1 << 12; ++repeat)
      for (const char32_t c : wide) {
        put(thirty_two, c, 4, little);
        if (c < 0x10000) {
          put(sixteen, c, 2, little);
        } else {
          put(sixteen, 0xd800 + ((c - 0x10000) >> 10), 2, little);
          put(sixteen, 0xdc00 + ((c - 0x10000) & 0x3ff), 2, little);
        }
      }
    write("16", sixteen);
    write("32.gz", gzip(thirty_two));
    write("without_mark", sixteen.substr(2));
    for (const int64_t piece : {1, 1000, 1 << 20}) {
      EXPECT_TRUE(text("16", "", piece) == utf8);
      EXPECT_TRUE(text("32.gz", "latin1", piece) == utf8);  // a mark is stronger than a name
      EXPECT_TRUE(text("without_mark", little ? "utf-16le" : "UTF-16BE", piece) == utf8);
    }
  }
  write("marked", "\xef\xbb\xbf" + utf8);
  EXPECT_TRUE(text("marked") == utf8);
  write("latin", "caf\xe9\x80");
  EXPECT_EQ(text("latin"), "caf\xe9\x80");  // as it is: the reader of records refuses it
  EXPECT_EQ(text("latin", "latin1"), "caf\u00e9\u0080");
  EXPECT_EQ(text("latin", "windows-1252"), "caf\u00e9\u20ac");
  write("chinese", "\xc4\xe3\xba\xc3");
  EXPECT_EQ(text("chinese", "gb18030"), "\u4f60\u597d");
}

TEST_F(ByteStreamTest, BytesThatAreNoTextInTheEncodingAreErrors) {
  write("odd",
        "\xff\xfe"
        "a\0b"s);
  EXPECT_THAT(error_of([&] { text("odd"); }),
              AllOf(HasSubstr("odd: expected text in UTF-16LE"), HasSubstr("byte 3")));
  write("half_pair",
        "\xff\xfe\x3d\xd8"
        "a\0"s);
  EXPECT_THAT(error_of([&] { text("half_pair"); }), HasSubstr("UTF-16LE"));
  write("plain", "text");
  EXPECT_THAT(error_of([&] { text("plain", "utf-16"); }),
              HasSubstr("expected a byte order mark, found none"));
  EXPECT_THAT(error_of([&] { text("plain", "klingon"); }), HasSubstr("found \"klingon\""));
  EXPECT_THAT(error_of([&] { check_encoding("klingon"); }), HasSubstr("expected a name such as utf-16le"));
}

}  // namespace
}  // namespace wuneng::byte_stream_test
