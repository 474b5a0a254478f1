#include "launch/train/context_length.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "model/rope_settings.h"

namespace wuneng {
namespace {

constexpr const char* kPositions = "max_position_embeddings";

}  // namespace

// Qwen2.5's README leaves the key as it is where it adds YaRN.
int64_t positions_of(const ModelConfig& c) {
  const auto it = c.carried.find(kPositions);
  if (it == c.carried.end()) return 0;
  const auto value = nlohmann::json::parse(it->second);
  require(value.is_number_integer() && value > 0, "config.json: {} = {}: expected a positive whole number",
          kPositions, it->second);
  const auto* yarn = std::get_if<YarnScaling>(&c.rope_scaling);
  const double scaled = yarn ? yarn->factor * double(yarn->original_length) : 0;
  return std::max(value.get<int64_t>(), static_cast<int64_t>(scaled));
}

namespace {

void extend_by_yarn(Recipe& r, TrainRecipe& t, int64_t positions) {
  ModelConfig& c = t.student;
  const auto* yarn = std::get_if<YarnScaling>(&c.rope_scaling);
  const double before = yarn ? yarn->factor : 1;
  const double factor = r.number("student.yarn_factor", before, 1, 1e6);
  if (factor == before) return;
  require(yarn || std::holds_alternative<PlainRope>(c.rope_scaling),
          "{}: student.yarn_factor = {}: expected a student.init_from whose rotary embedding is plain or "
          "scaled by YaRN, found rope_scaling {}",
          r.path(), factor, rope_scaling_json(c.rope_scaling).dump());
  const int64_t original = yarn ? yarn->original_length : positions;
  require(
      original > 0,
      "{}: student.yarn_factor: expected {} in the config.json of student.init_from, the length that YaRN "
      "starts from, found none",
      r.path(), kPositions);
  c.rope_scaling = PlainRope{};
  if (factor > 1) c.rope_scaling = yarn_scaling(factor, original);
  t.notes.push_back(
      fmt::format("{}: student.yarn_factor: the rotary embedding is scaled by YaRN from {} to {:.0f} "
                  "positions, before by {:g}",
                  r.path(), original, factor * double(original), before));
}

}  // namespace

void read_context_length(Recipe& r, TrainRecipe& t) {
  ModelConfig& c = t.student;
  int64_t positions = positions_of(c);
  if (!t.init_from.empty()) {
    const double before = double(c.rope_theta);
    c.rope_theta = static_cast<float>(r.number("student.rope_theta", before, 1, 1e12));
    if (double(c.rope_theta) != before)
      t.notes.push_back(
          fmt::format("{}: student.rope_theta = {:g}: before {:g}", r.path(), double(c.rope_theta), before));
    extend_by_yarn(r, t, positions);
    positions = positions_of(c);
  }
  if (positions > 0 || r.has(std::string("student.") + kPositions)) {
    positions = r.integer(std::string("student.") + kPositions, positions, 1, int64_t{1} << 40);
    c.carried[kPositions] = std::to_string(positions);
  }
  require(positions == 0 || t.seq_len <= positions,
          "{}: data.seq_len = {}: expected at most {}, the student's {}; a longer context is set by "
          "student.yarn_factor or student.rope_theta together with student.{}",
          r.path(), t.seq_len, positions, kPositions, kPositions);
  const int64_t teacher = t.teacher ? positions_of(*t.teacher) : 0;
  require(teacher == 0 || t.seq_len <= teacher,
          "{}: data.seq_len = {}: expected at most {}, {} in config.json of teacher.path {}", r.path(),
          t.seq_len, teacher, kPositions, t.teacher_path);
}

}  // namespace wuneng
