// TrainRecipe: every setting of `wuneng train`, read from TOML and checked before any work.
#pragma once
#include <optional>

#include "data/batches/packing.h"
#include "model/config.h"
#include "model/objectives/objective.h"
#include "model/recompute.h"
#include "parallel/learning_rate.h"
#include "parallel/mesh.h"
#include "parallel/optimizer.h"
#include "parallel/schedule.h"
#include "runtime/config.h"
#include "runtime/device_memory.h"

namespace wuneng {

// One source of training data: text taken as bytes, token files, or token files of preference pairs. All
// sources of a run are of one kind.
struct DataSource {
  enum class Kind { bytes, tokens, pairs };
  std::string key;  // in the recipe: "data", or "data.sources[0]"
  std::vector<std::string> paths, extensions;
  Kind kind = Kind::bytes;
  double weight = 1;
};

// On-policy distillation: on_policy.h.
struct OnPolicyOptions {
  double share = 0;           // of the training micro-batches
  int64_t prompt_tokens = 0;  // of each document that are kept at least
  double temperature = 1;     // of the continuations
  int64_t sequences = 0;      // that are continued at the same time
};

struct TrainRecipe {
  // [student]
  ModelConfig student;
  std::string init_from;       // a Hugging Face directory or a checkpoint to start from; empty: random
  bool random_mixers = false;  // with init_from: the mixers that it does not have start at random
  std::string tokenizer_from;  // the directory of the tokenizer that goes with the student; may be empty
  DType student_dtype = DType::f32;
  std::vector<std::string> train, freeze;  // name patterns with *: only these, and of them not those
  // [teacher]; none where the objective needs no signals
  std::string teacher_path;
  DType teacher_dtype = DType::f32;
  bool teacher_streams = true;        // on ranks of its own, or in the student's processes
  std::vector<int64_t> layer_map;     // the teacher's layer of each of the student's: model/layer_map.h
  std::optional<DType> stream_dtype;  // what hidden states and logits are rounded to; none: not
  int64_t top_k = 0;                  // of the teacher signal "top_k"
  int credits = 2;
  std::string precomputed;   // a file of its log-probabilities (logprob_file.h), in place of a teacher; empty
  Layout precompute_layout;  // of the ranks that make the file: teacher.layout
  std::string cache;         // a directory of its signals (signal_cache.h), which a run adds to; empty: none
  double cache_gb = 0;       // the most that it may have, in 10^9 bytes
  bool cached = false;       // all signals are in the cache: there is no teacher
  std::optional<ModelConfig> teacher;
  // [layout], [teacher.layout]
  Layout layout;
  std::optional<Layout> teacher_layout;
  const PipelineSchedule* schedule = &one_f_one_b;  // of the student's pipeline
  int chunks = 1;                                   // of the model on each of its stages
  bool sequence_parallel = false;                   // the student's: parallel/sequence_parallel.h
  // [data]
  std::vector<DataSource> sources;
  int64_t held_out_every = 0;
  PackingRule packing = PackingRule::windows;
  bool drop_long_pairs = false;
  int64_t seq_len = 0, micro_batch = 0, accumulation = 0;
  uint64_t data_seed = 0;
  int data_threads = 1;
  // [loss], [optimizer]
  LossOptions loss;  // teacher_signal: of teacher.signal, see vocabulary_signal.h
  std::shared_ptr<const Objective> objective;
  OnPolicyOptions on_policy;
  AdamwOptions adamw;
  LearningRate learning_rate;
  double clip = 1;
  int zero = 1;  // stage of ZeRO: 1 shares the optimizer's state between the replicas
  // [run]
  std::string out, resume, device, activations;
  uint64_t seed = 0;
  int64_t checkpoint_every = 0, keep = 0, eval_every = 0, eval_batches = 0, log_every = 0;
  std::string on_nan;  // "stop" or "skip" an update whose gradient is not finite
  int64_t max_skipped = 0, check_replicas_every = 0;
  std::vector<int64_t> trace_steps;  // first and last, or none
  static constexpr double kGpuMemory = 0.9;
  double gpu_memory = kGpuMemory;  // share of a GPU's free memory: reserve_gpu_memory
  Recompute recompute = Recompute::none;
  bool overlap = true, async_checkpoints = true, time_products = false, cuda_graphs = false;
  double hang_timeout = 600;

  std::string path;                // of the recipe, for messages
  std::vector<std::string> notes;  // of the recipe, for the user: keys by their former names
  std::string resolved;            // the whole recipe with its defaults, as TOML

  bool has_teacher() const { return teacher.has_value(); }
  // Is it there, on ranks of its own or the student's, or only what it has given before?
  bool runs_teacher() const { return has_teacher() && precomputed.empty() && !cached; }
  VirtualStages virtual_stages() const { return {layout.pp, chunks, schedule->placement}; }
  // Has the objective a loss on this stage of the student, in one of its model chunks?
  bool has_loss(int stage) const {
    const VirtualStages on = virtual_stages();
    bool any = false;
    for (int chunk = 0; chunk < on.chunks; ++chunk)
      any = any || objective->has_loss(on.at(stage, chunk), on.count());
    return any;
  }
  int64_t steps() const { return learning_rate.steps; }
  int64_t rows() const { return seq_len * micro_batch; }  // T of a micro-batch
  // The kind of device that a rank computes on.
  DeviceKind device_kind() const {
    const bool gpu = device == "cuda" || (device == "auto" && cuda_device_count() > 0);
    return gpu ? DeviceKind::cuda : DeviceKind::cpu;
  }
  // Of a model whose weights are of type `weights`: f32 on the CPU; on a GPU the weights', if not said.
  DType activations_on(Device place, DType weights) const {
    if (activations != "auto") return parse_dtype(activations);
    return place.kind == DeviceKind::cuda ? weights : DType::f32;
  }
  // What the student's mixers take and give in attention alignment, where it is not the student's hidden
  // size: see Decoder.
  int64_t alignment_width() const {
    return has_teacher() && !objective->passes_hidden_state() && teacher->hidden_size != student.hidden_size
               ? teacher->hidden_size
               : 0;
  }
  // Whether ranks send each other messages: between the stages of a pipeline, or the teacher's signals.
  bool sends_messages() const { return layout.pp > 1 || precompute_layout.pp > 1 || teacher_layout; }
  int64_t tokens_per_step() const { return rows() * accumulation * layout.dp; }

  // plan: for `wuneng plan`, which needs no weights of the models but config.json, and no memory for them.
  // verify: for `wuneng verify`, which writes nothing.
  enum class Use { run, plan, verify };
  static TrainRecipe load(const std::string& path, const std::vector<std::string>& overrides,
                          Use use = Use::run);
};

// Overrides ("layout.tp=2") of a recipe, with `settings` in the place of those of the same keys.
std::vector<std::string> replace_settings(std::vector<std::string> overrides,
                                          const std::vector<std::string>& settings);

}  // namespace wuneng
