#include "runtime/safetensors.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "runtime/input_file.h"
#include "runtime/json_depth.h"

namespace wuneng {
namespace {

using nlohmann::json;
constexpr int64_t kMaxHeader = 100'000'000;

const std::map<std::string, DType> kTypes = {{"F32", DType::f32}, {"BF16", DType::bf16}, {"F16", DType::f16},
                                             {"F64", DType::f64}, {"I32", DType::i32},   {"I64", DType::i64},
                                             {"U8", DType::u8}};

// The bits of an element of the format's other types: a file may hold them, no weight here has them.
const std::map<std::string, int64_t> kOtherTypes = {
    {"BOOL", 8},    {"I8", 8},      {"I16", 16},    {"U16", 16},    {"U32", 32},    {"U64", 64}, {"C64", 64},
    {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4}};

std::string type_name(DType dtype) {
  for (const auto& [name, type] : kTypes)
    if (type == dtype) return name;
  return "?";
}

// Parses JSON and rejects duplicate keys: a repeated tensor name would hide a tensor.
json parse_strict(const char* begin, const char* end, const std::string& where) {
  require(!json_too_deep({begin, static_cast<size_t>(end - begin)}),
          "{}: expected JSON nested at most {} deep, found deeper", where, kDeepestJson);
  std::vector<std::set<std::string>> keys;
  const auto callback = [&](int, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key)
      require(keys.back().insert(value.get<std::string>()).second, "{}: duplicate key '{}' in the header",
              where, value.get<std::string>());
    return true;
  };
  try {
    return json::parse(begin, end, callback);
  } catch (const json::exception& e) {
    fail("{}: the header is not JSON: {}", where, e.what());
  }
}

int64_t number(const json& j, const std::string& where) {
  require(j.is_number_unsigned() && j.get<uint64_t>() <= INT64_MAX, "{}: expected a whole number, found {}",
          where, j.dump());
  return j.get<int64_t>();
}

SafetensorsEntry parse_entry(const json& j, const std::string& where) {
  require(j.is_object() && j.contains("dtype") && j.contains("shape") && j.contains("data_offsets"),
          "{}: expected dtype, shape and data_offsets", where);
  require(j["dtype"].is_string() && (kTypes.count(j["dtype"]) || kOtherTypes.count(j["dtype"])),
          "{}: element type {} is not one of safetensors", where, j["dtype"].dump());
  require(j["shape"].is_array() && j["data_offsets"].is_array() && j["data_offsets"].size() == 2,
          "{}: expected a shape list and two data_offsets", where);
  SafetensorsEntry e;
  e.type = j["dtype"];
  if (const auto known = kTypes.find(e.type); known != kTypes.end()) e.dtype = known->second;
  e.begin = number(j["data_offsets"][0], where);
  e.end = number(j["data_offsets"][1], where);
  int64_t bits = e.dtype ? 8 * size_of(*e.dtype) : kOtherTypes.at(e.type);
  for (const json& dim : j["shape"]) {
    e.shape.push_back(number(dim, where));
    require(!__builtin_mul_overflow(bits, e.shape.back(), &bits), "{}: shape {} overflows", where,
            to_string(e.shape));
  }
  const int64_t bytes = bits / 8 + (bits % 8 != 0);
  require(e.end >= e.begin && e.end - e.begin == bytes, "{}: {} {} takes {} bytes, data_offsets give {}",
          where, e.type, to_string(e.shape), bytes, e.end - e.begin);
  return e;
}

int64_t bytes_of(const SafetensorsItem& i) { return element_count(i.shape) * size_of(i.dtype); }

// What a directory without safetensors has in their place, for an error.
std::string other_weights(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename(), ending = entry.path().extension();
    if (name.starts_with("adapter_model") || ending == ".bin" || ending == ".gguf" || ending == ".pt" ||
        ending == ".pth" || ending == ".h5" || ending == ".msgpack" || ending == ".safetensors")
      names.push_back(name);
  }
  if (names.empty()) return "neither";
  std::sort(names.begin(), names.end());
  return fmt::format(
      "{}{}: save the model as safetensors (in transformers: save_pretrained; an adapter is "
      "merged first)",
      names[0], names.size() > 1 ? fmt::format(" and {} more", names.size() - 1) : "");
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path), file_(MappedFile::open(path)) {
  require(!std::string_view(file_.data, file_.size).starts_with("version https://git-lfs"),
          "{}: expected safetensors, found a pointer of Git LFS: get the file itself with git lfs pull",
          path);
  require(file_.size >= 8, "{}: expected at least 8 bytes, found {}", path, file_.size);
  uint64_t length = 0;
  std::memcpy(&length, file_.data, 8);
  require(length <= kMaxHeader && static_cast<int64_t>(length) <= file_.size - 8,
          "{}: a header of {} bytes; expected at most {} and at most {}", path, length, kMaxHeader,
          file_.size - 8);
  data_ = 8 + static_cast<int64_t>(length);
  const json header = parse_strict(file_.data + 8, file_.data + data_, path);
  require(header.is_object(), "{}: the header is not a JSON object", path);
  std::vector<std::pair<const std::string*, const SafetensorsEntry*>> order;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      require(value.is_object() || value.is_null(), "{}: __metadata__ is not an object", path);
      for (const auto& [key, text] : value.items())
        require(text.is_string(), "{}: __metadata__ '{}' is not a string", path, key);
      for (const auto& [key, text] : value.items()) metadata_[key] = text;
      continue;
    }
    const auto at = entries_.emplace(name, parse_entry(value, path + ": tensor " + name)).first;
    order.emplace_back(&at->first, &at->second);
  }
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->begin, a.second->end) < std::pair(b.second->begin, b.second->end);
  });
  int64_t at = 0;
  for (const auto& [name, e] : order) {
    require(e->begin == at, "{}: tensor {} begins at byte {}, expected {}: gap or overlap", path, *name,
            e->begin, at);
    at = e->end;
  }
  require(at == file_.size - data_, "{}: tensors take {} bytes of data, the file holds {}", path, at,
          file_.size - data_);
}

Tensor SafetensorsFile::tensor(const std::string& name) const {
  const auto it = entries_.find(name);
  require(it != entries_.end(), "{}: no tensor {}", path_, name);
  const SafetensorsEntry& e = it->second;
  require(e.dtype.has_value(), "{}: tensor {}: expected elements of a type that is computed with, found {}",
          path_, name, e.type);
  char* data = const_cast<char*>(file_.data) + data_ + e.begin;
  if (reinterpret_cast<uintptr_t>(data) % size_of(*e.dtype) == 0)
    return Tensor::wrap(data, e.shape, *e.dtype, file_.memory);
  const Tensor copy = Tensor::empty(e.shape, *e.dtype);
  std::memcpy(copy.raw(), data, e.end - e.begin);
  return copy;
}

bool SafetensorsDirectory::exists(const std::string& directory) {
  return std::filesystem::exists(directory + "/model.safetensors") ||
         std::filesystem::exists(directory + "/model.safetensors.index.json");
}

SafetensorsDirectory::SafetensorsDirectory(const std::string& directory) : directory_(directory) {
  const std::string single = directory + "/model.safetensors", index = single + ".index.json";
  const bool has_single = std::filesystem::exists(single), has_index = std::filesystem::exists(index);
  require(has_single || has_index, "{}: expected model.safetensors or model.safetensors.index.json, found {}",
          directory, other_weights(directory));
  if (has_index) read_index(index);
  require(
      !has_single || !has_index || files_.contains("model.safetensors"),
      "{}: expected model.safetensors or an index of several files, found both, and the index does not name "
      "model.safetensors: remove the one that is not meant",
      directory);
  if (!has_index) files_.emplace("model.safetensors", SafetensorsFile(single));
  for (const auto& [file, content] : files_)  // an index may be incomplete
    for (const auto& [name, entry] : content.entries()) {
      const auto [at, added] = file_of_.emplace(name, file);
      require(added || at->second == file, "{}: tensor {} is in two files, {} and {}", directory, name,
              at->second, file);
    }
}

void SafetensorsDirectory::read_index(const std::string& index) {
  const std::string text = read_input_file(index, "an index of safetensors");
  const json parsed = parse_strict(text.data(), text.data() + text.size(), index);
  require(parsed.is_object() && parsed.contains("weight_map") && parsed["weight_map"].is_object(),
          "{}: expected an object 'weight_map'", index);
  for (const auto& [name, value] : parsed["weight_map"].items()) {
    require(value.is_string(), "{}: weight_map '{}': expected a file name", index, name);
    const std::string file = value;
    require(!file.empty() && file.find('/') == std::string::npos && file.find('\\') == std::string::npos &&
                file != "..",
            "{}: weight_map '{}': '{}' is not a plain file name", index, name, file);
    if (!files_.count(file)) {
      require(std::filesystem::exists(directory_ + "/" + file), "{}: names {}, which is not there", index,
              file);
      files_.emplace(file, SafetensorsFile(directory_ + "/" + file));
    }
    require(files_.at(file).entries().count(name), "{}: tensor {} is not in {}", index, name, file);
    file_of_[name] = file;
  }
}

std::vector<std::string> SafetensorsDirectory::names() const {
  std::vector<std::string> out;
  for (const auto& [name, file] : file_of_) out.push_back(name);
  return out;
}

const SafetensorsEntry& SafetensorsDirectory::entry(const std::string& name) const {
  require(contains(name), "{}: no tensor {}", directory_, name);
  return files_.at(file_of_.at(name)).entries().at(name);
}

Tensor SafetensorsDirectory::tensor(const std::string& name) const {
  require(contains(name), "{}: no tensor {}", directory_, name);
  return files_.at(file_of_.at(name)).tensor(name);
}

void write_safetensors_file(const std::string& path, const std::vector<SafetensorsItem>& items,
                            const std::map<std::string, std::string>& metadata,
                            const SafetensorsContent& content) {
  json header = {{"__metadata__", metadata}};
  int64_t at = 0;
  for (const SafetensorsItem& item : items) {
    const int64_t end = at + bytes_of(item);
    header[item.name] = {
        {"dtype", type_name(item.dtype)}, {"shape", item.shape}, {"data_offsets", {at, end}}};
    at = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  OutputFile out(path);
  const uint64_t length = text.size();
  out.append(&length, 8);
  out.append(text.data(), static_cast<int64_t>(text.size()));
  for (const SafetensorsItem& item : items) {
    const Tensor t = content(item).to(Device{});
    require(t.shape() == item.shape && t.dtype() == item.dtype, "{}: tensor {}: expected {} {}, got {} {}",
            out.path(), item.name, to_string(item.dtype), to_string(item.shape), to_string(t.dtype()),
            to_string(t.shape()));
    out.append(t.raw(), t.bytes());
  }
  out.commit();
}

void write_safetensors(const std::string& directory, std::vector<SafetensorsItem> items,
                       int64_t max_file_bytes, const SafetensorsContent& content) {
  std::sort(items.begin(), items.end(), [](const auto& a, const auto& b) {
    return size_of(a.dtype) != size_of(b.dtype) ? size_of(a.dtype) > size_of(b.dtype) : a.name < b.name;
  });
  std::vector<std::vector<SafetensorsItem>> files(1);
  int64_t total = 0, filled = 0;
  for (const SafetensorsItem& item : items) {
    if (filled > 0 && filled + bytes_of(item) > max_file_bytes) files.emplace_back(), filled = 0;
    files.back().push_back(item);
    filled += bytes_of(item);
    total += bytes_of(item);
  }
  std::filesystem::create_directories(directory);
  json weight_map = json::object();
  for (size_t f = 0; f < files.size(); ++f) {
    const std::string name = files.size() == 1
                                 ? "model.safetensors"
                                 : fmt::format("model-{:05}-of-{:05}.safetensors", f + 1, files.size());
    for (const SafetensorsItem& item : files[f]) weight_map[item.name] = name;
    write_safetensors_file(directory + "/" + name, files[f], {{"format", "pt"}}, content);
  }
  if (files.size() > 1)
    write_file_durably(
        directory + "/model.safetensors.index.json",
        json{{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}}.dump(2) + "\n");
}

}  // namespace wuneng
