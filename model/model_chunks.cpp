#include "model/model_chunks.h"

#include <algorithm>

namespace wuneng {

ModelChunks::ModelChunks(const ModelConfig& config, const VirtualStages& on, int stage,
                         const Placement& shared, DType dtype, Recompute recompute, int64_t alignment_width) {
  Placement at = shared;
  at.stages = on.count();
  at.layers = {};
  at.ends_together = on.stage_of(0) == on.last_stage();
  for (int chunk = 0; chunk < on.chunks; ++chunk) {
    at.stage = on.at(stage, chunk);
    chunks_.push_back(std::make_unique<Decoder>(config, at, dtype, recompute, alignment_width));
    if (at.first()) at.embedding = chunks_.back()->embedding();
  }
}

bool ModelChunks::runs_chunk_steps() const {
  return std::any_of(chunks_.begin(), chunks_.end(),
                     [](const auto& chunk) { return chunk->runs_chunk_steps(); });
}

void ModelChunks::forget_recordings() {
  for (const auto& chunk : chunks_) chunk->forget_recordings();
}

std::vector<std::string> ModelChunks::take_notes() const {
  std::vector<std::string> out;
  for (const auto& chunk : chunks_)
    for (std::string& note : chunk->take_notes()) out.push_back(std::move(note));
  return out;
}

Parameters ModelChunks::parameters() {
  Parameters out;
  for (const auto& chunk : chunks_)
    for (Parameter* p : chunk->parameters()) out.push_back(p);
  return out;
}

}  // namespace wuneng
