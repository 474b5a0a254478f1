// CheckpointMeta: what a checkpoint says of its run besides tensors (manifest.json, "meta"). Written and read
// here alone; a new field is a member, a line in `fields` and a line in `of`.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "launch/train/recipe.h"
#include "launch/train/training_data.h"
#include "runtime/checkpoint/reader.h"

namespace wuneng {

struct CheckpointMeta {
  // 1: revisions that wrote no version. 2: the same fields, and the version.
  static constexpr int64_t kVersion = 2;

  int64_t version = kVersion;
  nlohmann::json model;        // ModelConfig::to_json()
  std::string recipe;          // every setting of the run, as TOML
  uint64_t seed = 0;           // of the initialisation
  std::string tokenizer_from;  // the directory whose tokenizer made the tokens; may be empty
  int64_t optimizer_steps = 0;
  std::string data_fingerprint;  // TrainingData::fingerprint()
  std::string data_tokenizer;    // TrainingData::tokenizer(); empty: not known, as before 2026-11-26
  uint64_t data_seed = 0;
  int64_t next_step = 0;
  std::optional<int64_t> next_sequence;  // missing in checkpoints before 2026-11-20
  int64_t dp = 1, pp = 1, tp = 1;        // the layout that saved it

  // Calls field(path in the JSON, member) for each.
  template <class Self, class Field>
  static void fields(Self& self, const Field& field) {
    field("/version", self.version);
    field("/config", self.model);
    field("/recipe", self.recipe);
    field("/seed", self.seed);
    field("/tokenizer_from", self.tokenizer_from);
    field("/optimizer_steps", self.optimizer_steps);
    field("/data/fingerprint", self.data_fingerprint);
    field("/data/tokenizer", self.data_tokenizer);
    field("/data/seed", self.data_seed);
    field("/data/next_step", self.next_step);
    field("/data/next_sequence", self.next_sequence);
    field("/layout/dp", self.dp);
    field("/layout/pp", self.pp);
    field("/layout/tp", self.tp);
  }

  // Of a run after `step` training steps.
  static CheckpointMeta of(const TrainRecipe& r, const TrainingData& data, int64_t step,
                           int64_t optimizer_steps) {
    CheckpointMeta m;
    m.model = r.student.to_json();
    m.recipe = r.resolved;
    m.seed = r.seed;
    m.tokenizer_from = r.tokenizer_from;
    m.optimizer_steps = optimizer_steps;
    m.data_fingerprint = data.fingerprint();
    m.data_tokenizer = data.tokenizer();
    m.data_seed = r.data_seed;
    m.next_step = step;
    m.next_sequence = data.cursor(step).sequence;
    m.dp = r.layout.dp, m.pp = r.layout.pp, m.tp = r.layout.tp;
    return m;
  }

  // Throws where a field is missing or of another type, and where a later revision wrote the checkpoint.
  static CheckpointMeta read(const CheckpointReader& reader) {
    CheckpointMeta m;
    const std::string& where = reader.directory();
    m.version = reader.meta().value("version", int64_t{1});
    require(m.version >= 1 && m.version <= kVersion,
            "{}/manifest.json: meta.version: expected 1 to {}, found {}: a later version of wuneng wrote it",
            where, kVersion, m.version);
    fields(m, [&](const char* path, auto& member) {
      using Member = std::decay_t<decltype(member)>;
      const nlohmann::json::json_pointer at(path);
      if (!reader.meta().contains(at)) {
        if constexpr (std::is_same_v<Member, std::optional<int64_t>>) return;
        require(std::string(path) == "/version" || std::string(path) == "/tokenizer_from" ||
                    std::string(path) == "/data/tokenizer",
                "{}/manifest.json: meta{}: expected a value, found none", where, path);
        return;
      }
      const nlohmann::json& value = reader.meta().at(at);
      try {
        if constexpr (std::is_same_v<Member, std::optional<int64_t>>)
          member = value.get<int64_t>();
        else
          member = value.get<Member>();
      } catch (const nlohmann::json::exception&) {
        fail("{}/manifest.json: meta{}: unexpected value {}", where, path, value.dump());
      }
    });
    return m;
  }

  nlohmann::json to_json() const {
    nlohmann::json out;
    fields(*this, [&](const char* path, const auto& member) {
      if constexpr (std::is_same_v<std::decay_t<decltype(member)>, std::optional<int64_t>>) {
        if (member) out[nlohmann::json::json_pointer(path)] = *member;
      } else {
        out[nlohmann::json::json_pointer(path)] = member;
      }
    });
    return out;
  }

  ModelConfig model_config(const std::string& where) const { return ModelConfig::from_json(model, where); }
};

}  // namespace wuneng
