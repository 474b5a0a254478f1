// The student's ranks: the training loop. Phases: 1 model and optimizer, 2 resume, 3 rounds of training and
// evaluation, 4 the last checkpoint.
#include <fnmatch.h>

#include <chrono>
#include <optional>

#include "launch/train/colocated_teacher.h"
#include "launch/train/train.h"
#include "launch/train/training_state.h"
#include "model/initialize.h"
#include "parallel/gradients.h"
#include "parallel/pipeline.h"
#include "runtime/metrics.h"

namespace wuneng {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

class StudentRun {
 public:
  StudentRun(const TrainRecipe& recipe, const Mesh& mesh, const TrainingData& data, const Comm& stream,
             int64_t done, Device device)
      : r_(recipe),
        mesh_(mesh),
        data_(data),
        groups_{mesh.tp, mesh.pp, mesh.dp, mesh.embedding},
        model_(recipe.student,
               Placement{mesh.tp, mesh.pp_rank, mesh.layout.pp, device,
                         recipe.activations_on(device, recipe.student_dtype)},
               recipe.student_dtype, recipe.recompute),
        done_(done),
        reader_(data, first_round(data.rounds(), done), recipe.data_threads, own_items()) {
    freeze();
    gradients_.emplace(model_.parameters(), groups_);
    optimizer_.emplace(model_.parameters(), recipe.adamw, model_.stream());
    if (done == 0)
      initialize();
    else
      resume();
    if (mesh.last_stage() && recipe.has_teacher) {
      if (recipe.teacher_streams)
        teacher_ =
            std::make_unique<StreamedTeacher>(stream, mesh, stream_options(recipe, data, done, device));
      else
        teacher_ = std::make_unique<InProcessTeacher>(recipe, mesh, batches_, device);
    }
    if (is_logging_rank()) metrics_.emplace(recipe.out + "/metrics.jsonl", done);
  }

  // Returns the seconds that this rank waited for data.
  double run() {
    const auto& rounds = data_.rounds();
    const Clock::time_point start = Clock::now();
    LossSums evaluation;
    for (int64_t i = first_round(rounds, done_); i < static_cast<int64_t>(rounds.size()); ++i) {
      const Clock::time_point begin = Clock::now();
      batches_ = reader_.next();
      if (rounds[i].trains) {
        train_step(i, begin, start);
        continue;
      }
      if (rounds[i].part == 0) evaluation = {};
      const LossSums part = pass(i, 0);
      evaluation.kl += part.kl;
      evaluation.ce += part.ce;
      evaluation.tokens += part.tokens;
      if (rounds[i].last_part) report_evaluation(rounds[i].step, evaluation);
    }
    if (done_ < r_.steps()) save(r_.steps());
    return reader_.seconds_waited();
  }

 private:
  // The rank that writes metrics: the last stage knows the loss.
  bool is_logging_rank() const { return mesh_.last_stage() && mesh_.dp_rank == 0 && mesh_.tp_rank == 0; }

  // This rank's micro-batches of a round: its replica's.
  RoundReader::Items own_items() const {
    return [count = static_cast<int>(r_.accumulation), dp_rank = mesh_.dp_rank](int64_t round) {
      std::vector<StreamItem> items;
      for (int m = 0; m < count; ++m) items.push_back({round, m, dp_rank});
      return items;
    };
  }

  void freeze() {
    for (const std::string& pattern : r_.freeze) {
      bool any = false;
      for (Parameter* p : model_.parameters())
        if (fnmatch(pattern.c_str(), p->name.c_str(), 0) == 0) {
          p->trainable = false;
          p->var = Var(p->var.value(), false);
          any = true;
        }
      require(mesh_.role_comm.all_reduce(any, Reduce::max, "freeze patterns") > 0,
              "student.freeze: no parameter matches '{}'", pattern);
    }
  }

  void initialize() {
    if (!r_.init_from.empty())
      load_hugging_face(model_, r_.init_from, r_.seed);
    else
      for (const Parameter* p : model_.parameters()) initialize_random(*p, r_.student, r_.seed);
    optimizer_.emplace(model_.parameters(), r_.adamw,
                       model_.stream());  // masters of what has just been loaded
  }

  void resume() {
    CheckpointReader reader(r_.resume == "auto" ? r_.out + "/checkpoints" : r_.resume);
    require(reader.step() == done_, "{}: step {}, rank 0 found step {}", reader.directory(), reader.step(),
            done_);
    const auto& meta = reader.meta();
    require(meta.at("config") == r_.student.to_json(),
            "{}: the checkpoint's model is not the recipe's: {} against {}", reader.directory(),
            meta.at("config").dump(), r_.student.to_json().dump());
    require(meta.at("data").at("fingerprint") == data_.fingerprint(),
            "{}: the checkpoint's data is not the recipe's: expected fingerprint {}, found {}. The files, "
            "weights, packing, seq_len and seed of [data] must stay; for other data start a run from the "
            "weights (wuneng convert, then student.init_from)",
            reader.directory(), meta.at("data").at("fingerprint").dump(), data_.fingerprint());
    load_model(model_, reader);
    load_optimizer(*optimizer_, reader);
    if (is_logging_rank())
      progress_.line(fmt::format("resumed from {} at step {}", reader.directory(), done_));
  }

  void save(int64_t step) {
    const nlohmann::json meta = {
        {"config", r_.student.to_json()},
        {"recipe", r_.resolved},
        {"seed", r_.seed},
        {"tokenizer_from", r_.init_from.empty() ? r_.teacher_path : r_.init_from},
        {"optimizer_steps", optimizer_->steps_done()},
        {"data",
         {{"fingerprint", data_.fingerprint()},
          {"seed", r_.data_seed},
          {"next_step", step},
          {"next_sequence", data_.cursor(step).sequence}}},
        {"layout", {{"dp", r_.layout.dp}, {"pp", r_.layout.pp}, {"tp", r_.layout.tp}}}};
    save_checkpoint(mesh_.role_comm, r_.out + "/checkpoints", step,
                    checkpoint_pieces(model_, *optimizer_, mesh_.dp_rank), meta);
    if (mesh_.role_comm.rank() == 0) prune_checkpoints(r_.out + "/checkpoints", r_.keep);
  }

  // All micro-batches of a round through the pipeline; sums over all replicas, known on the last stage.
  // loss_tokens > 0: with gradients, summed over the ranks.
  LossSums pass(int64_t index, double loss_tokens) {
    const int count = static_cast<int>(r_.accumulation);
    const LossTotals totals(model_.placement().device);
    PipelineWork work;
    work.train = loss_tokens > 0;
    const Schedule schedule = work.train ? one_f_one_b(mesh_.layout.pp, mesh_.pp_rank, count)
                                         : forward_only(mesh_.layout.pp, mesh_.pp_rank, count);
    const auto completed = [&](const Parameter* first) { gradients_->complete_from(first); };
    work.rows = [&](int) { return r_.rows(); };
    work.forward = [&](Tape& tape, int m, const Var& hidden) {
      const MicroBatch& batch = batches_[m];
      const Var out = model_.forward(tape, batch, hidden,
                                     m == last_backward(schedule) ? Stage::Completed(completed) : nullptr);
      if (!mesh_.last_stage()) return out;
      const std::vector<TeacherSlice> slices =
          teacher_ ? teacher_->take(index, m) : std::vector<TeacherSlice>();
      const Var loss = distillation_loss(tape, mesh_.tp, out, model_.head(), batch.labels, slices, r_.loss,
                                         loss_tokens > 0 ? loss_tokens : 1, totals);
      if (teacher_) teacher_->release();
      return loss;
    };
    const Pipeline pipeline(mesh_.pp, model_.hidden_size(), model_.stream(), model_.placement().activations);
    pipeline.run(schedule, work);
    if (work.train) gradients_->finish();
    if (!mesh_.last_stage()) return {};
    mesh_.dp.all_reduce(totals.tensor(), Reduce::sum, "loss over dp");
    return totals.read();
  }

  // Tokens with a label in the whole step: what the loss is a mean over.
  double labelled_tokens() const {
    double count = 0;
    for (const MicroBatch& batch : batches_)
      for (int64_t t = 0; t < batch.rows(); ++t) count += batch.labels.data<int32_t>()[t] >= 0;
    return std::max(1.0, mesh_.dp.all_reduce(count, Reduce::sum, "labelled tokens"));
  }

  void train_step(int64_t index, Clock::time_point begin, Clock::time_point start) {
    const Round& round = data_.rounds()[index];
    const double loss_tokens = labelled_tokens();
    const LossSums sums = pass(index, loss_tokens);
    const double norm = gradient_norm(model_.parameters(), groups_);
    // The last stage alone knows the loss; the gradients' norm is known to all, and is not finite where the
    // loss is not.
    require(std::isfinite(norm), "step {}: the gradient's norm is {}; parameters were not updated",
            round.step + 1, norm);
    const double lr = r_.learning_rate.at(round.step);
    optimizer_->step(lr, clip_factor(norm, r_.clip));
    const double wait = waited_since_last();
    report_step(round.step + 1, sums, loss_tokens, lr, norm, seconds_since(begin), seconds_since(start),
                wait);
    if (r_.checkpoint_every > 0 && (round.step + 1) % r_.checkpoint_every == 0 && round.step + 1 < r_.steps())
      save(round.step + 1);
  }

  // Of the student's ranks, the one that waited longest for data since the step before.
  double waited_since_last() {
    const double now = reader_.seconds_waited(), mine = now - std::exchange(waited_, now);
    return mesh_.role_comm.all_reduce(mine, Reduce::max, "waited for data");
  }

  void report_step(int64_t step, const LossSums& sums, double loss_tokens, double lr, double norm,
                   double seconds, double elapsed, double data_wait) {
    if (!is_logging_rank()) return;
    const double kl = sums.kl / loss_tokens, ce = sums.ce / loss_tokens,
                 loss = (1 - r_.loss.ce_weight) * kl + r_.loss.ce_weight * ce;
    const double speed = double(r_.tokens_per_step()) / seconds,
                 left = elapsed / double(step - done_) * double(r_.steps() - step);
    metrics_->write({{"step", step},
                     {"loss", loss},
                     {"kl", kl},
                     {"ce", ce},
                     {"lr", lr},
                     {"grad_norm", norm},
                     {"tokens_per_second", speed},
                     {"seconds", seconds},
                     {"data_wait", data_wait},
                     {"peak_tensor_bytes", memory_use(model_.placement().device.kind).peak}});
    progress_.show({step, r_.steps(), loss, kl, ce, lr, norm, speed, left, r_.has_teacher});
  }

  void report_evaluation(int64_t step, const LossSums& sums) {
    if (!is_logging_rank() || sums.tokens == 0) return;
    const double kl = sums.kl / double(sums.tokens), ce = sums.ce / double(sums.tokens);
    metrics_->write(
        {{"step", step}, {"held_out_kl", kl}, {"held_out_ce", ce}, {"held_out_tokens", sums.tokens}});
    progress_.line(fmt::format("held out at step {}: ce {:.4f}{}", step, ce,
                               r_.has_teacher ? fmt::format("  kl {:.4f}", kl) : ""));
  }

  const TrainRecipe& r_;
  const Mesh& mesh_;
  const TrainingData& data_;
  GradientGroups groups_;
  Decoder model_;
  std::optional<GradientSums> gradients_;
  std::optional<Optimizer> optimizer_;
  std::unique_ptr<TeacherSource> teacher_;
  std::optional<MetricsFile> metrics_;
  Progress progress_{r_.log_every};
  int64_t done_;
  RoundReader reader_;
  std::vector<MicroBatch> batches_;  // of the round under way
  double waited_ = 0;                // reader_'s, at the last report
};

}  // namespace

double train_student(const TrainRecipe& recipe, const Mesh& mesh, const TrainingData& data,
                     const Comm& stream, int64_t done, Device device) {
  return StudentRun(recipe, mesh, data, stream, done, device).run();
}

}  // namespace wuneng
