#include "runtime/checkpoint/shard.h"

#include <algorithm>
#include <cstring>
#include <future>

#include "runtime/finite.h"
#include "runtime/hash.h"
#include "runtime/hdf5.h"

namespace wuneng {
namespace {

using nlohmann::json;

// What is checked, hashed and copied at a time: it stays in a core's cache.
constexpr int64_t kCachedBytes = 1 << 20;

template <class F>
void in_steps(int64_t begin, int64_t end, int64_t step, const F& work) {
  for (int64_t at = begin; at < end; at += step) work(at, std::min(step, end - at));
}

void write_elements(OutputFile& out, const CheckpointPiece& piece, StoredPart& part) {
  const char* data = static_cast<const char*>(piece.data.raw());
  in_steps(0, piece.data.bytes(), kBlockBytes, [&](int64_t block, int64_t size) {
    Hash hash;
    in_steps(block, block + size, kCachedBytes, [&](int64_t at, int64_t bytes) {
      require(find_non_finite(data + at, bytes / size_of(piece.data.dtype()), piece.data.dtype()).count == 0,
              "tensor {}: an element is not finite; the checkpoint is not saved", piece.name);
      hash.add(data + at, bytes);
      out.write_at(part.offset + at, data + at, bytes);
    });
    out.start_writeback(part.offset + block, size);
    part.hashes.push_back(hash.value());
  });
}

std::vector<ByteRange> data_ranges(const WrittenShard& shard) {
  std::vector<ByteRange> out;
  for (const WrittenShard::Part& p : shard.parts) out.push_back({p.part.offset, part_bytes(p.part, p.dtype)});
  return out;
}

}  // namespace

std::vector<CheckpointPiece> share_of_pieces(const std::vector<CheckpointPiece>& pieces, int replica,
                                             int replicas) {
  int64_t total = 0, before = 0;
  for (const CheckpointPiece& p : pieces) total += p.data.bytes();
  const int64_t begin = total * replica / replicas, end = total * (replica + 1) / replicas;
  std::vector<CheckpointPiece> out;
  for (const CheckpointPiece& p : pieces) {
    const int64_t rows = p.data.ndim() ? p.data.dim(0) : 1, row = p.data.bytes() / std::max<int64_t>(1, rows);
    // Row r is this replica's where its first byte is in [begin, end).
    const auto first_row = [&](int64_t byte) {
      return row ? std::clamp<int64_t>((byte - before + row - 1) / row, 0, rows) : 0;
    };
    const int64_t from = first_row(begin), to = first_row(end);
    before += p.data.bytes();
    if (from == to) continue;
    CheckpointPiece mine = p;
    if (to - from < rows) {
      mine.data = p.data.rows(from, to);
      mine.begin[0] += from;
    }
    out.push_back(std::move(mine));
  }
  return out;
}

std::string WrittenShard::to_text() const {
  json list = json::array();
  for (const Part& p : parts)
    list.push_back({{"name", p.name},
                    {"dtype", std::string(to_string(p.dtype))},
                    {"shape", p.shape},
                    {"begin", p.part.begin},
                    {"size", p.part.size},
                    {"offset", p.part.offset},
                    {"hashes", p.part.hashes}});
  return json{{"file", file.name}, {"size", file.size}, {"hash", file.hash}, {"parts", list}}.dump();
}

WrittenShard WrittenShard::from_text(const std::string& text) {
  const json j = json::parse(text);
  WrittenShard out{{j.at("file"), j.at("size"), j.at("hash")}, {}};
  for (const json& p : j.at("parts"))
    out.parts.push_back({p.at("name"),
                         parse_dtype(p.at("dtype").get<std::string>()),
                         p.at("shape"),
                         {0, p.at("begin"), p.at("size"), p.at("offset"), p.at("hashes")}});
  return out;
}

std::string dataset_name(const std::string& tensor, int64_t part) {
  return part == 0 ? tensor : fmt::format("{}.part{}", tensor, part);
}

WrittenShard write_shard(const std::string& directory, const std::string& name,
                         const std::vector<CheckpointPiece>& pieces) {
  h5::FileWriter out(directory + "/" + name);
  WrittenShard shard;
  std::map<std::string, int64_t> parts;
  for (const CheckpointPiece& p : pieces) {
    const std::string dataset = dataset_name(p.name, parts[p.name]++);
    shard.parts.push_back(
        {p.name,
         p.data.dtype(),
         p.global_shape,
         {0, p.begin, p.data.shape(), out.add(dataset, p.data.dtype(), p.data.shape()), {}}});
  }
  out.finish();
  // A part is read back while the next one, and the disk, are written.
  std::future<void> read_back;
  const auto wait_for_read_back = [&] {
    if (read_back.valid()) read_back.get();
  };
  for (size_t i = 0; i < pieces.size(); ++i) {
    const WrittenShard::Part& p = shard.parts[i];
    write_elements(out.output(), pieces[i], shard.parts[i].part);
    wait_for_read_back();
    read_back =
        std::async(std::launch::async, [&] { verify_part(out.output().file(), p.part, p.dtype, p.name); });
  }
  wait_for_read_back();
  shard.file = {name, out.output().size(), out.metadata_hash()};
  const uint64_t found = hash_outside(out.output().file(), data_ranges(shard));
  require(found == shard.file.hash, "{}: read back after writing: expected xxh3 {} of the metadata, found {}",
          out.output().path(), hash_text(shard.file.hash), hash_text(found));
  out.commit();
  return shard;
}

void verify_part(const FileDescriptor& file, const StoredPart& part, DType dtype, const std::string& name) {
  std::vector<char> buffer(kCachedBytes);
  in_steps(0, part_bytes(part, dtype), kBlockBytes, [&](int64_t block, int64_t size) {
    Hash hash;
    in_steps(block, block + size, kCachedBytes, [&](int64_t at, int64_t bytes) {
      file.read(part.offset + at, buffer.data(), bytes);
      hash.add(buffer.data(), bytes);
    });
    const uint64_t found = hash.value(), expected = part.hashes[block / kBlockBytes];
    require(found == expected, "{}: tensor {}: damaged in bytes {} to {}: expected xxh3 {}, found {}",
            file.path(), name, part.offset + block, part.offset + block + size, hash_text(expected),
            hash_text(found));
  });
}

uint64_t hash_outside(const FileDescriptor& file, const std::vector<ByteRange>& ranges) {
  Hash hash;
  std::vector<char> block(1 << 20);
  for (ByteRange gap : complement(ranges, file.size()))
    while (gap.bytes > 0) {
      const int64_t n = std::min<int64_t>(gap.bytes, static_cast<int64_t>(block.size()));
      file.read(gap.begin, block.data(), n);
      hash.add(block.data(), n);
      gap.begin += n, gap.bytes -= n;
    }
  return hash.value();
}

}  // namespace wuneng
