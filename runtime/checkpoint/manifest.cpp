#include "runtime/checkpoint/manifest.h"

#include <algorithm>
#include <charconv>

#include "runtime/hash.h"
#include "runtime/json_depth.h"

namespace wuneng {
namespace {

using nlohmann::json;

constexpr std::string_view kFormat = "wuneng checkpoint";
constexpr std::string_view kHashField = "\"xxh3\": \"";  // of the manifest itself; the first one in the text
constexpr int64_t kDigits = 16;

uint64_t parse_hash(const json& j) {
  const std::string text = j;
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  require(error == std::errc() && end == text.data() + text.size() && text.size() == kDigits,
          "expected {} hexadecimal digits, found {}", kDigits, j.dump());
  return value;
}

int64_t size_from(const json& j) {
  require(j.is_number_unsigned() && j.get<uint64_t>() <= uint64_t{INT64_MAX},
          "expected a whole number of at most 63 bits, found {}", j.dump());
  return j.get<int64_t>();
}

Shape shape_from(const json& j) {
  require(j.is_array(), "expected a list of sizes, found {}", j.dump());
  Shape out;
  for (const json& size : j) out.push_back(size_from(size));
  return out;
}

int64_t checked_bytes(const Shape& shape, DType dtype) {
  int64_t bytes = size_of(dtype);
  for (const int64_t size : shape)
    require(!__builtin_mul_overflow(bytes, size, &bytes), "a shape of {} overflows", to_string(shape));
  return bytes;
}

StoredFile file_from(const json& j) {
  StoredFile out{j.at("file"), size_from(j.at("size")), parse_hash(j.at("xxh3"))};
  require(!out.name.empty() && out.name.find_first_of("/\\") == std::string::npos && out.name != ".." &&
              out.name.find('\0') == std::string::npos,
          "'{}' is not a plain file name", out.name);
  return out;
}

json to_json(const StoredFile& f) {
  return {{"file", f.name}, {"size", f.size}, {"xxh3", hash_text(f.hash)}};
}

StoredPart part_from(const json& j, DType dtype, const Manifest& m) {
  StoredPart part{0, shape_from(j.at("begin")), shape_from(j.at("size")), 0, {}};
  const int64_t shard = size_from(j.at("shard")), count = static_cast<int64_t>(m.shards.size());
  require(shard < count, "expected a shard file in [0, {}), found {}", count, shard);
  part.shard = static_cast<int>(shard);
  const int64_t bytes = checked_bytes(part.size, dtype);
  if (m.version == 1) return part;
  part.offset = size_from(j.at("offset"));
  const StoredFile& file = m.shards[part.shard];
  require(bytes <= file.size && part.offset <= file.size - bytes,
          "expected a part inside of {} ({} bytes), found {} bytes at {}", file.name, file.size, bytes,
          part.offset);
  for (const json& hash : j.at("xxh3")) part.hashes.push_back(parse_hash(hash));
  const int64_t blocks = (bytes + kBlockBytes - 1) / kBlockBytes;
  require(static_cast<int64_t>(part.hashes.size()) == blocks, "expected {} checksums of a part, found {}",
          blocks, part.hashes.size());
  return part;
}

json to_json(const StoredPart& p) {
  json hashes = json::array();
  for (const uint64_t h : p.hashes) hashes.push_back(hash_text(h));
  return {{"shard", p.shard}, {"begin", p.begin}, {"size", p.size}, {"offset", p.offset}, {"xxh3", hashes}};
}

// The position of the digits of the manifest's own checksum.
size_t hash_position(const std::string& text) {
  const size_t at = text.find(kHashField);
  return at == std::string::npos || text.size() < at + kHashField.size() + kDigits ? std::string::npos
                                                                                   : at + kHashField.size();
}

}  // namespace

int64_t part_bytes(const StoredPart& part, DType dtype) { return checked_bytes(part.size, dtype); }

void check_tiling(const std::string& name, const StoredTensor& t) {
  const size_t n = t.shape.size();
  int64_t covered = 0;
  std::vector<const StoredPart*> parts;
  for (const StoredPart& p : t.parts) {
    require(p.begin.size() == n && p.size.size() == n,
            "checkpoint: tensor {}: a part of {} dimensions, expected {}", name, p.size.size(), n);
    for (size_t k = 0; k < n; ++k)
      require(p.begin[k] >= 0 && p.size[k] >= 0 && p.size[k] <= t.shape[k] &&
                  p.begin[k] <= t.shape[k] - p.size[k],
              "checkpoint: tensor {} {}: a part at {} of size {} lies outside", name, to_string(t.shape),
              to_string(p.begin), to_string(p.size));
    covered += element_count(p.size);
    parts.push_back(&p);
  }
  // By their first rows, each is compared with those before it that have not ended: few, where ranks hold
  // rows.
  std::sort(parts.begin(), parts.end(),
            [](const StoredPart* a, const StoredPart* b) { return a->begin < b->begin; });
  std::vector<const StoredPart*> open;
  for (const StoredPart* p : parts) {
    std::erase_if(open,
                  [&](const StoredPart* q) { return n > 0 && q->begin[0] + q->size[0] <= p->begin[0]; });
    for (const StoredPart* q : open) {
      bool disjoint = false;
      for (size_t k = 0; k < n; ++k)
        disjoint |= p->begin[k] >= q->begin[k] + q->size[k] || q->begin[k] >= p->begin[k] + p->size[k];
      require(disjoint, "checkpoint: tensor {}: parts at {} and {} overlap", name, to_string(q->begin),
              to_string(p->begin));
    }
    open.push_back(p);
  }
  require(covered == element_count(t.shape), "checkpoint: tensor {} {}: its parts hold {} of {} elements",
          name, to_string(t.shape), covered, element_count(t.shape));
}

std::string Manifest::dump() {
  // The checksum's field comes before all that holds another: nlohmann::ordered_json keeps the order.
  nlohmann::ordered_json out;
  out["format"] = kFormat;
  out["version"] = version;
  out["xxh3"] = std::string(kDigits, '0');
  out["run"] = run;
  out["save"] = save;
  out["step"] = step;
  out["meta"] = meta;
  out["index"] = to_json(index);
  json files = json::array(), all = json::object();
  for (const StoredFile& f : shards) files.push_back(to_json(f));
  out["shards"] = files;
  for (const auto& [name, t] : tensors) {
    json parts = json::array();
    for (const StoredPart& p : t.parts) parts.push_back(to_json(p));
    all[name] = {{"dtype", std::string(to_string(t.dtype))}, {"shape", t.shape}, {"parts", parts}};
  }
  out["tensors"] = all;
  std::string text = out.dump(1) + "\n";
  hash = hash_of(text.data(), static_cast<int64_t>(text.size()));
  text.replace(hash_position(text), kDigits, hash_text(hash));
  return text;
}

Manifest Manifest::parse(const std::string& text, const std::string& where) {
  require(!json_too_deep(text), "{}: expected JSON nested at most {} deep, found deeper", where,
          kDeepestJson);
  Manifest m;
  try {
    const json j = json::parse(text);
    require(j.at("format") == kFormat, "expected a {}, found {}", kFormat, j.at("format").dump());
    m.version = size_from(j.at("version"));
    require(m.version == 1 || m.version == kVersion, "expected version 1 to {}, found {}", kVersion,
            m.version);
    if (m.version > 1) {
      m.hash = parse_hash(j.at("xxh3"));
      const size_t at = hash_position(text);
      require(at != std::string::npos, "expected a checksum before all others, found none");
      std::string zeroed = text;
      zeroed.replace(at, kDigits, kDigits, '0');
      const uint64_t found = hash_of(zeroed.data(), static_cast<int64_t>(zeroed.size()));
      require(found == m.hash, "damaged: expected xxh3 {}, found {}", hash_text(m.hash), hash_text(found));
      m.run = j.at("run");
      m.save = size_from(j.at("save"));
      m.index = file_from(j.at("index"));
    } else {
      require(!j.contains("xxh3"), "version 1 has no checksum, but one is there: damaged");
    }
    m.step = size_from(j.at("step"));
    m.meta = j.at("meta");
    for (const json& s : j.at("shards")) m.shards.push_back(file_from(s));
    for (const auto& [name, t] : j.at("tensors").items()) {
      StoredTensor stored{parse_dtype(t.at("dtype").get<std::string>()), shape_from(t.at("shape")), {}};
      checked_bytes(stored.shape, stored.dtype);
      for (const json& part : t.at("parts")) stored.parts.push_back(part_from(part, stored.dtype, m));
      check_tiling(name, stored);
      m.tensors.emplace(name, std::move(stored));
    }
  } catch (const json::exception& e) {
    fail("{}: not a manifest: {}", where, e.what());
  } catch (const Error& e) {
    fail("{}: {}", where, e.what());
  }
  return m;
}

}  // namespace wuneng
