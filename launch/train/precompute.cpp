#include "launch/train/precompute.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>

#include "launch/train/checkpoint_weights.h"
#include "launch/train/logprob_file.h"
#include "model/teacher_signals/signal_source.h"
#include "parallel/mesh.h"
#include "parallel/pipeline.h"
#include "runtime/format.h"
#include "runtime/watchdog.h"

namespace wuneng {
namespace {

// The sequences of one source and split that make a micro-batch.
struct Item {
  size_t source;
  Split split;
  int64_t first;
};

std::vector<Item> items_of(const TrainingData& data, int64_t micro_batch) {
  std::vector<Item> out;
  for (size_t i = 0; i < data.sources(); ++i)
    for (const Split split : {Split::train, Split::held_out})
      for (int64_t s = 0; s < data.batches().plan(split, i).sequences(); s += micro_batch)
        out.push_back({i, split, s});
  return out;
}

// Zeros where a sequence of the plan has the row, NaN elsewhere.
LogprobTensors empty_tensors(const TrainingData& data) {
  LogprobTensors out(data.sources());
  for (size_t i = 0; i < data.sources(); ++i)
    for (const Split split : {Split::train, Split::held_out}) {
      const Tensor values = Tensor::empty({data.corpus(i).size(split)});
      std::fill_n(values.f32(), values.numel(), std::numeric_limits<float>::quiet_NaN());
      const PackingPlan& plan = data.batches().plan(split, i);
      for (int64_t s = 0; s < plan.sequences(); ++s)
        for (const Piece& piece : plan.pieces(s)) std::fill_n(values.f32() + piece.row, piece.rows, 0.0f);
      out[i][index_of(split)] = values;
    }
  return out;
}

void store(const MicroBatch& batch, const Tensor& made, const LogprobTensors& values) {
  const Tensor host = made.to(Device{});
  for (const RowOrigin& o : batch.origins)
    std::copy_n(host.f32() + o.at, o.rows,
                values[o.corpus][index_of(o.held_out ? Split::held_out : Split::train)].f32() + o.row);
}

}  // namespace

void check_precompute(const TrainRecipe& r, int ranks) {
  require(!r.precomputed.empty(),
          "{}: expected teacher.mode = \"precomputed\" and teacher.precomputed, the file to write", r.path);
  const Layout& l = r.precompute_layout;
  require(l.size() == ranks,
          "{}: teacher.layout dp {} x pp {} x tp {}: expected {} ranks, but {} {} started; use mpirun -n {}",
          r.path, l.dp, l.pp, l.tp, l.size(), ranks, ranks == 1 ? "was" : "were", l.size());
  require(l.pp <= r.teacher->num_layers, "{}: teacher.layout.pp = {}: expected at most {} layers", r.path,
          l.pp, r.teacher->num_layers);
}

void precompute(const TrainRecipe& r, const TrainingData& data) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  const Mesh mesh = Mesh::make(Comm::world(), r.precompute_layout, std::nullopt);
  const Device device = parse_device(r.device, Runtime::local_rank());
  reserve_gpu_memory(mesh.world, device, r.gpu_memory);
  mesh.connect(device, r.overlap, {mesh.layout.pp});
  watchdog::enter("loading the model");
  Decoder model(
      *r.teacher,
      Placement{mesh.tp, mesh.pp_rank, mesh.layout.pp, device, r.activations_on(device, r.teacher_dtype)},
      r.teacher_dtype);
  load_weights(model, *open_weights(r.teacher_path), 0);
  const std::unique_ptr<SignalSource> source = signal_source_registry().at("label_logprob")();

  // Replicas take turns; the last stage's ranks keep what they make, and each row is made by one replica.
  const std::vector<Item> items = items_of(data, r.micro_batch);
  const bool keeps = mesh.last_stage() && mesh.tp_rank == 0;
  const LogprobTensors values = keeps ? empty_tensors(data) : LogprobTensors();
  const Pipeline pipeline(mesh.pp, model.hidden_size(), model.stream(), model.placement().activations);
  constexpr size_t kTogether = 16;  // micro-batches of a replica
  const size_t dp = static_cast<size_t>(mesh.layout.dp), round = kTogether * dp;
  for (size_t from = 0; from < items.size(); from += round) {
    watchdog::enter(fmt::format("micro-batch {} of {}", from, items.size()));
    std::vector<MicroBatch> batches;
    for (size_t i = from + static_cast<size_t>(mesh.dp_rank); i < std::min(from + round, items.size());
         i += dp)
      batches.push_back(data.batches().in_order(items[i].source, items[i].split, items[i].first));
    if (batches.empty()) continue;
    PipelineWork work;
    work.train = false;
    work.rows = [&](int) { return r.rows(); };
    work.carried_in = [&](int /*chunk*/) { return model.carried_in(); };
    work.carried_out = [&](int /*chunk*/) { return model.carried_out(); };
    work.forward = [&](Tape& tape, int m, int /*chunk*/, const StageState& input) {
      MixerTaps none;
      const StageState out = model.forward(tape, batches[m], input, none);
      if (!mesh.last_stage()) return out;
      const Tensor made = source->make({model, batches[m], out.hidden.value(), none});
      if (keeps) store(batches[m], made, values);
      return out;
    };
    pipeline.run(forward_only({mesh.layout.pp}, mesh.pp_rank, static_cast<int>(batches.size())), work);
  }
  watchdog::enter("writing log-probabilities");
  if (keeps)
    for (const auto& splits : values)
      for (const Tensor& of_split : splits)
        mesh.dp.all_reduce(of_split, Reduce::sum, "log-probabilities of labels");
  if (keeps && mesh.dp_rank == 0) {
    write_logprobs(r, data, values);
    int64_t rows = 0;
    for (const auto& splits : values)
      for (const Tensor& of_split : splits) rows += of_split.numel();
    std::printf("wrote %s: %s tokens, log-probabilities of labels by %s, in %s\n", r.precomputed.c_str(),
                thousands(rows).c_str(), r.teacher_path.c_str(),
                clock_time(std::chrono::duration<double>(Clock::now() - begin).count()).c_str());
  }
  mesh.world.barrier("log-probabilities written");
}

}  // namespace wuneng
