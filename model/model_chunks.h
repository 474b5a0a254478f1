// ModelChunks: what a rank holds of a model whose pipeline has one or more model chunks a stage. Each is a
// Decoder of the virtual stage that it is (parallel/schedule.h).
#pragma once
#include <memory>
#include <vector>

#include "model/decoder.h"
#include "parallel/schedule.h"

namespace wuneng {

class ModelChunks {
 public:
  // shared: what all chunks of `stage` have in common; its stage, stages and layers are not read. The rest
  // as in Decoder's constructor. Where the model's ends are on one rank and share one table, so do they here.
  ModelChunks(const ModelConfig& config, const VirtualStages& on, int stage, const Placement& shared,
              DType dtype, Recompute recompute, int64_t alignment_width);

  int size() const { return static_cast<int>(chunks_.size()); }
  Decoder& operator[](int chunk) { return *chunks_[chunk]; }
  const Decoder& operator[](int chunk) const { return *chunks_[chunk]; }
  Parameters parameters();  // of all chunks, in their order

  Device device() const { return chunks_[0]->placement().device; }
  DType activations() const { return chunks_[0]->placement().activations; }
  Stream stream() const { return chunks_[0]->stream(); }
  int64_t hidden_size() const { return chunks_[0]->hidden_size(); }
  int64_t hidden_rows(int64_t rows) const { return chunks_[0]->hidden_rows(rows); }
  bool runs_chunk_steps() const;                // any of its layers
  void forget_recordings();                     // of all chunks: Decoder::forget_recordings
  std::vector<std::string> take_notes() const;  // of all chunks: Decoder::take_notes
  bool carries_between_stages() const { return chunks_[0]->carries_between_stages(); }

 private:
  std::vector<std::unique_ptr<Decoder>> chunks_;
};

}  // namespace wuneng
