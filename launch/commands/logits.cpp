#include <cstdio>
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
  std::vector<int32_t> tokens;
  std::vector<int64_t> documents;
  if (const auto json = nlohmann::json::parse(text, nullptr, false); json.is_object() || json.is_array()) {
    try {
      tokens = (json.is_array() ? json : json.at("tokens")).get<std::vector<int32_t>>();
      if (json.is_object() && json.contains("documents"))
        documents = json["documents"].get<std::vector<int64_t>>();
    } catch (const nlohmann::json::exception& e) {
      fail("{}: expected {{\"tokens\": [ids], \"documents\": [0, .., count]}}: {}", path, e.what());
    }
  } else {
    std::istringstream in(text);
    for (int32_t id; in >> id;) tokens.push_back(id);
    require(in.eof(), "{}: expected token ids separated by white space, or JSON", path);
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
  return {Tensor::from(tokens, {T}), Tensor(), documents};
}

}  // namespace

void logits(const LogitsOptions& o) {
  const auto model = open_model(o.model, parse_device(o.device, 0));
  const MicroBatch batch = read_tokens(o.tokens, model->config().vocab_size);
  Tape no_grad(model->stream(), false);
  const Tensor out = model->logits(model->forward(no_grad, batch, {}).hidden.value());
  h5::FileWriter file(o.out);
  file.add("logits", out);
  file.add("tokens", batch.tokens);
  file.finish();
  file.commit();
  std::printf("wrote %s: logits %s\n", o.out.c_str(), to_string(out.shape()).c_str());
}

}  // namespace wuneng
