#include "launch/train/signal_cache.h"

#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "launch/train/checkpoint_weights.h"
#include "launch/train/identity.h"
#include "launch/train/teacher_placement.h"
#include "runtime/hash.h"

namespace wuneng {
namespace {

namespace fs = std::filesystem;

std::vector<IdentityField> identity_of_cache(const TrainRecipe& r, const TrainingData& data) {
  std::vector<IdentityField> out = {
      {"format", "wuneng teacher signals 1", "this program's cache of teacher's signals"},
      {"teacher", hash_text(weights_fingerprint(*open_weights(r.teacher_path))),
       "the fingerprint of the model at teacher.path"},
      {"teacher.dtype", std::string(to_string(r.teacher_dtype)), "teacher.dtype"},
      {"tokenizer", data.tokenizer(), "tokens of the recipe's tokenizer"},
  };
  const std::vector<CachedSignal> signals = cached_signals(r);
  out.push_back({"signals", std::to_string(signals.size()), "as many signals as the objective needs"});
  for (const auto& [signal, kind, bytes] : signals)
    out.push_back({fmt::format("signal.{}", kind),
                   fmt::format("{}, {} x {}{}", signal.name, signal.width, to_string(signal.dtype),
                               signal.layer ? fmt::format(", the teacher's layer {}", *signal.layer) : ""),
                   "a signal (teacher.signal, teacher.stream_dtype, teacher.layer_map)"});
  if (r.loss.teacher_signal == "top_k")
    out.push_back({"top_k",
                   fmt::format("temperature {}, {} tokens", r.loss.temperature, r.loss.shared_vocabulary),
                   "loss.temperature and the tokens that both vocabularies share"});
  return out;
}

std::string identity_path(const TrainRecipe& r) { return r.cache + "/cache.json"; }

void make_cache(const TrainRecipe& r, const std::vector<IdentityField>& fields) {
  nlohmann::ordered_json json;
  for (const IdentityField& field : fields) json[field.key] = field.value;
  std::error_code error;
  fs::create_directories(r.cache, error);
  require(!error, "{}: teacher.cache: the directory {} cannot be made: {}", r.path, r.cache, error.message());
  create_file_durably(identity_path(r), json.dump(1) + "\n");
}

}  // namespace

std::vector<CachedSignal> cached_signals(const TrainRecipe& r, std::optional<int> stage) {
  std::vector<CachedSignal> out;
  int64_t kind = 0;
  for (const SourcedSignal& s : teacher_signals_of(r)) {
    const TeacherSignal& signal = s.signal;
    if (!stage || signal.student.stage == *stage)
      out.push_back(
          {signal, kind, r.seq_len * sent_columns(signal.dtype, signal.width) * size_of(signal.dtype)});
    ++kind;
  }
  return out;
}

void check_cacheable(const TrainRecipe& r) {
  for (const CachedSignal& s : cached_signals(r)) {
    require(s.signal.name != "label_logprob",
            "{}: teacher.cache: expected signals that tokens alone decide, found log-probabilities of labels "
            "(loss.objective = \"dpo\"): teacher.mode = \"precomputed\" is for them",
            r.path);
    require(
        s.signal.student.gathered,
        "{}: teacher.cache: expected signals that every tensor-parallel rank of the student takes whole, "
        "found '{}', of {} bytes a token: use teacher.signal = \"hidden\", which is as exact, or \"top_k\"",
        r.path, s.signal.name, s.bytes / r.seq_len);
  }
}

std::array<uint64_t, 2> sequence_key(const MicroBatch& batch, int64_t position, int64_t seq_len) {
  const int64_t begin = position * seq_len, end = begin + seq_len;
  const auto first = std::lower_bound(batch.documents.begin(), batch.documents.end(), begin),
             last = std::lower_bound(first, batch.documents.end(), end);
  WUNENG_ASSERT(first != last && *first == begin && last != batch.documents.end() && *last == end);
  std::vector<int32_t> words = {static_cast<int32_t>(seq_len), static_cast<int32_t>(last - first)};
  for (auto at = first; at != last; ++at) words.push_back(static_cast<int32_t>(*at - begin));
  const int32_t* const tokens = batch.tokens.data<int32_t>();
  words.insert(words.end(), tokens + begin, tokens + end);
  const XXH128_hash_t hash = XXH3_128bits(words.data(), words.size() * sizeof words[0]);
  return {hash.low64, hash.high64};
}

void prepare_cache(const TrainRecipe& r, const TrainingData& data) {
  const std::vector<IdentityField> fields = identity_of_cache(r, data);
  const std::string path = identity_path(r);
  if (std::error_code none; !fs::exists(path, none)) {
    require(
        !r.cached,
        "{}: teacher.cache = \"{}\": expected a cache, found no {}: a run with the teacher (teacher.mode = "
        "\"stream\" or \"colocated\") and this teacher.cache makes it",
        r.path, r.cache, path);
    make_cache(r, fields);
  }
  std::map<std::string, std::string> found;
  try {
    nlohmann::json::parse(read_file(path)).get_to(found);
  } catch (const nlohmann::json::exception& e) {
    fail("{}: expected texts in JSON, found something else: {}", path, e.what());
  }
  require_identity(fields, found, fmt::format("{}: teacher.cache: {}", r.path, path),
                   "another teacher, tokenizer or signal needs another directory");
}

}  // namespace wuneng
