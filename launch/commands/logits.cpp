#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "launch/commands/commands.h"
#include "launch/train/checkpoint_weights.h"
#include "runtime/file.h"
#include "runtime/hdf5.h"

namespace wuneng {
namespace {

MicroBatch read_tokens(const std::string& path, int64_t vocab) {
  const std::string text = read_file(path);
  std::vector<int64_t> tokens, documents;
  if (const auto json = nlohmann::json::parse(text, nullptr, false); json.is_object() || json.is_array()) {
    const auto integers = [&](const nlohmann::json& list, const char* what) {
      require(list.is_array(), "{}: {}: expected a list of whole numbers, found {}", path, what,
              list.type_name());
      std::vector<int64_t> out;
      for (const nlohmann::json& item : list) {
        require(item.is_number_integer(), "{}: {} {}: expected a whole number, found {}", path, what,
                out.size(), item.dump());
        out.push_back(item.get<int64_t>());
      }
      return out;
    };
    const bool object = json.is_object();
    require(!object || json.contains("tokens"),
            "{}: expected {{\"tokens\": [ids], \"documents\": [0, .., count]}}, found no \"tokens\"", path);
    tokens = integers(object ? json["tokens"] : json, "tokens");
    if (object && json.contains("documents")) documents = integers(json["documents"], "documents");
  } else {
    std::istringstream in(text);
    for (std::string word; in >> word;) {
      const char* const last = word.data() + word.size();
      const auto [end, error] = std::from_chars(word.data(), last, tokens.emplace_back());
      require(error == std::errc() && end == last,
              "{}: expected token ids separated by white space, or JSON, found '{}'", path,
              word.substr(0, 40));
    }
  }
  const int64_t T = static_cast<int64_t>(tokens.size());
  require(T > 0, "{}: expected at least one token, found none", path);
  for (int64_t t = 0; t < T; ++t)
    require(tokens[t] >= 0 && tokens[t] < vocab, "{}: token {}: expected an id from 0 to {}, found {}", path,
            t, vocab - 1, tokens[t]);
  if (documents.empty()) documents = {0, T};
  for (size_t d = 0; d + 1 < documents.size(); ++d)
    require(documents[d] < documents[d + 1],
            "{}: documents: expected a strictly increasing list, found {} after {}", path, documents[d + 1],
            documents[d]);
  require(documents.size() >= 2 && documents.front() == 0 && documents.back() == T,
          "{}: documents: expected a list that begins with 0 and ends with the number of tokens {}", path, T);
  return {Tensor::from(std::vector<int32_t>(tokens.begin(), tokens.end()), {T}), Tensor(), documents};
}

// Throws where the file cannot be written, before the work for it.
void require_output(const std::string& path) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::absolute(path).parent_path();
  std::error_code error;
  require(fs::is_directory(folder, error),
          "logits: --out {}: expected a file in a directory, found no directory {}", path, folder.string());
  require(!fs::is_directory(path, error), "logits: --out {}: expected a file, found a directory", path);
  require(access(folder.c_str(), W_OK | X_OK) == 0, "logits: --out {}: {} cannot be written to", path,
          folder.string());
}

}  // namespace

void logits(const LogitsOptions& o) {
  require_output(o.out);
  const Device device = parse_device(o.device, 0);
  const auto weights = open_whole_weights(o.model);
  const MicroBatch batch = read_tokens(o.tokens, weights->config().vocab_size);
  const auto model = make_model(*weights, device);
  Tape no_grad(model->stream(), false);
  const Tensor out = model->logits(model->forward(no_grad, batch, {}).hidden.value());
  const h5::Handle file = h5::create_file(o.out);
  h5::write(file, "logits", out);
  h5::write(file, "tokens", batch.tokens);
  std::printf("wrote %s: logits %s\n", o.out.c_str(), to_string(out.shape()).c_str());
}

}  // namespace wuneng
