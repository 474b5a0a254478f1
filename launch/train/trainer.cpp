#include "launch/train/trainer.h"

#include <chrono>
#include <cmath>

#include "launch/train/caching_teacher.h"
#include "launch/train/held_teacher_head.h"
#include "launch/train/open_teacher.h"
#include "launch/train/teacher_service.h"
#include "parallel/product_choices.h"
#include "parallel/replicas.h"
#include "runtime/collective_error.h"
#include "runtime/format.h"
#include "runtime/signals.h"
#include "runtime/watchdog.h"

namespace wuneng {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

std::vector<double> values_of(const HostCopy& sums) {
  const Tensor& host = sums.read("the objective's sums");
  return {host.data<double>(), host.data<double>() + host.numel()};
}

// The micro-batches of a replica, in order.
PassReader::Items micro_batches_of(int dp_rank, int64_t accumulation) {
  return [=](int64_t pass) {
    std::vector<StreamItem> items;
    for (int m = 0; m < accumulation; ++m) items.push_back({pass, m, dp_rank});
    return items;
  };
}

}  // namespace

Trainer::Trainer(const TrainRecipe& recipe, const Mesh& mesh, const TrainingData& data, const Comm& stream,
                 const RunDirectory& directory, const RunStart& start, Device device, StepTrace& trace)
    : recipe_(recipe),
      mesh_(mesh),
      data_(data),
      objective_(*recipe.objective),
      state_(recipe, mesh, data, directory, start, device),
      reader_(data, first_pass(data.passes(), start.step), recipe.data_threads,
              micro_batches_of(mesh.dp_rank, recipe.accumulation)),
      reporter_(recipe, is_logging_rank(), start.step),
      stop_(stop_agreement(recipe, mesh, data, start.step)),
      trace_(trace),
      saved_(start.step),
      optimizer_bytes_(state_.most_optimizer_bytes()) {
  OpenTeacher teacher = open_teacher(recipe, mesh, data, stream, start.step, batches_, device);
  teacher_ = std::move(teacher.source);
  if (adds_to_cache())
    teacher_ = cache_signals(std::move(teacher_), recipe, mesh, batches_,
                             [this](const std::string& text) { reporter_.line(text); });
  if (objective_.needs_teacher_head()) hold_teacher_head(teacher.colocated_head);
  student_pass_.emplace(recipe, mesh, state_.model, *state_.gradients, batches_, teacher_.get(),
                        teacher_head_ ? &*teacher_head_ : nullptr);
  if (recipe.on_policy.share > 0) {
    on_policy_.emplace(recipe, mesh, data, state_.model[0], stream);
    reporter_.line(
        fmt::format("on-policy: {:g}% of the training micro-batches are continuations by the student",
                    100 * recipe.on_policy.share));
  }
  reporter_.line(fmt::format(
      "optimizer: {:.1f} MiB of moments and masters on a rank{}", double(optimizer_bytes_) / (1 << 20),
      state_.shares_optimizer() ? fmt::format(", 1 / {} of a replica's (optimizer.zero = 1)", mesh.layout.dp)
                                : ""));
  // A graph is made by calls of the driver that may wait for the GPU, and so for a message whose other side
  // waits for this host: runtime/cuda/nccl.h.
  if (recipe.cuda_graphs && recipe.sends_messages() && device.kind == DeviceKind::cuda &&
      state_.model.runs_chunk_steps())
    reporter_.line("chunk steps are launched one by one: ranks send each other messages (run.cuda_graphs)");
  if (!state_.resumed_from.empty())
    reporter_.line(fmt::format("resumed from {} at step {}", state_.resumed_from, start.step));
}

void Trainer::hold_teacher_head(const Parameter* colocated) {
  HeldTeacherHead held = teacher_head(recipe_, state_.model, colocated);
  teacher_head_ = std::move(held.rows);
  const double most =
      mesh_.role_comm.all_reduce(double(held.bytes), Reduce::max, "bytes of the teacher's output matrix");
  reporter_.line(most > 0 ? fmt::format("teacher's output matrix: at most {:.1f} MiB of frozen rows on a "
                                        "student rank",
                                        most / (1 << 20))
                          : "teacher's output matrix: the colocated teacher's own rows");
}

RunEnd Trainer::run() {
  const int64_t end = static_cast<int64_t>(data_.passes().size());
  int64_t pass = first_pass(data_.passes(), state_.step);
  for (meet(pass); pass < end && stop_signal_ == 0; ++pass) {
    data_.passes()[pass].trains ? train_step(pass) : evaluate(pass);
    if (recipe_.time_products) time_products(pass);
  }
  if (saved_ < state_.step) save();
  state_.finish_saving();
  if (teacher_) teacher_->finish();
  if (adds_to_cache()) reporter_.line(describe_cached(*teacher_, recipe_, mesh_));
  if (on_policy_) report_on_policy();
  reporter_.finish();
  const bool stopped = pass < end;
  if (stopped) end_early(pass);
  if (on_policy_) on_policy_->finish();
  stop_.finish();
  return {reader_.seconds_waited(), stopped};
}

void Trainer::report_on_policy() {
  const double tokens = mesh_.dp.all_reduce(double(on_policy_->tokens()), Reduce::sum, "generated tokens"),
               seconds = mesh_.dp.all_reduce(on_policy_->seconds(), Reduce::max, "seconds of generation");
  reporter_.line(
      fmt::format("on-policy: {} tokens generated in {:.1f} s", thousands(int64_t(tokens)), seconds));
}

void Trainer::save() {
  watchdog::enter(fmt::format("saving step {}", state_.step));
  const trace::Span span(trace::Kind::saving, "checkpoint");
  state_.save();
  saved_ = state_.step;
}

void Trainer::time_products(int64_t pass) {
  if (std::exchange(timed_[data_.passes()[pass].trains], true)) return;
  watchdog::enter("timing matrix products");
  const TimedProducts found = wuneng::time_products(mesh_.role_comm, state_.model.stream());
  if (found.changed > 0) state_.model.forget_recordings();
  if (found.products > 0)
    reporter_.line(
        fmt::format("products: {} kinds timed, {} have another algorithm now than cublasLt's first",
                    found.products, found.changed));
}

void Trainer::end_early(int64_t pass) {
  reporter_.line(
      fmt::format("{}: stopped after step {} of {}; exit code {}, the same command continues the run",
                  signals::name(stop_signal_), state_.step, recipe_.steps(), signals::kStopped));
  const int64_t end = stop_.teacher_end(pass);
  watchdog::enter("waiting for the teacher to stop");
  if (on_policy_) on_policy_->abandon(pass, end);
  if (teacher_) teacher_->stop(pass, end);
  while (pass < end) stop_.signalled(++pass);
}

void Trainer::train_step(int64_t pass) {
  const Clock::time_point begin = Clock::now();
  watchdog::enter(fmt::format("step {}", state_.step + 1));
  trace_.begin(state_.step + 1);
  // 1. Micro-batches, and the number of rows or pairs that the loss is a mean over.
  {
    const trace::Span span(trace::Kind::waiting, "micro-batches");
    batches_ = reader_.next();
  }
  if (on_policy_) on_policy_->run(pass, batches_);
  const double count = std::max(1.0, loss_count());

  // 2. Forward, loss and backward of all micro-batches; gradients summed over the ranks.
  const HostCopy loss_sums = student_pass_->run(pass, true, count);
  state_.gradients->finish();

  // 3. Clip and update, on the device, before the host reads what the norm is. The last stage alone may know
  // the loss; the gradient's norm is known to all, and is not finite where the loss is not: then the update
  // changes nothing.
  const Tensor squared_norm = state_.gradients->squared_norm();
  const HostCopy squares(squared_norm);
  const double lr = recipe_.learning_rate.at(state_.step);
  {
    const trace::Span span(trace::Kind::saving, "copy for the checkpoint before");
    state_.before_update();
  }
  state_.update(lr, clip_scale(squared_norm, recipe_.clip));
  const double norm = std::sqrt(squares.read("the gradient's norm").data<double>()[0]);
  const std::vector<double> sums = values_of(loss_sums);
  const bool skipped = !std::isfinite(norm);
  if (skipped) skip_update(norm);
  skipped_in_a_row_ = skipped ? skipped_in_a_row_ + 1 : 0;
  ++state_.step;

  // 4. Report, and save where it is time; the last checkpoint is run()'s.
  {
    const trace::Span span(trace::Kind::saving, "checkpoint before");
    state_.poll_saving();
  }
  for (const std::string& note : state_.model.take_notes()) reporter_.line(note);
  const Waited waited = meet(pass + 1);
  if (is_logging_rank())
    reporter_.step({state_.step, objective_.metrics(sums), lr, norm, seconds_since(begin), waited.for_data,
                    waited.for_teacher, memory_use(state_.model.device().kind).peak, optimizer_bytes_,
                    skipped});
  const auto due = [&](int64_t every) { return every > 0 && state_.step % every == 0; };
  if (due(recipe_.checkpoint_every) && state_.step < recipe_.steps())
    save();  // checks the replicas too
  else if (due(recipe_.check_replicas_every))
    check_replicas(state_.model.parameters(), state_.groups);
  if (const std::string where = trace_.end(state_.step); !where.empty()) reporter_.line(where);
}

// A step whose update changed nothing. The gradient's norm is the same on all ranks, and so is what they do.
void Trainer::skip_update(double norm) {
  state_.optimizer->was_skipped();
  const std::string what = fmt::format("step {}: the gradient's norm is {}", state_.step + 1, norm);
  if (recipe_.on_nan != "skip")
    fail_together(mesh_.role_comm, what + "; parameters were not updated (run.on_nan = \"skip\" goes on)");
  if (skipped_in_a_row_ >= recipe_.max_skipped)
    fail_together(mesh_.role_comm, fmt::format("{}, after {} skipped updates in a row; run.max_skipped = {}",
                                               what, skipped_in_a_row_, recipe_.max_skipped));
  reporter_.line(what + "; parameters were not updated");
}

void Trainer::evaluate(int64_t pass) {
  const Pass& planned = data_.passes()[pass];
  watchdog::enter(fmt::format("evaluation after step {}, part {}", planned.step, planned.part));
  batches_ = reader_.next();
  if (planned.part == 0) evaluation_ = {std::vector<double>(objective_.sums().size()), 0};
  evaluation_.count += loss_count();
  const std::vector<double> sums = values_of(student_pass_->run(pass, false, 1));
  for (size_t i = 0; i < sums.size(); ++i) evaluation_.sums[i] += sums[i];
  if (planned.last_part && is_logging_rank() && evaluation_.count > 0)
    reporter_.evaluation(planned.step, objective_.metrics(evaluation_.sums),
                         static_cast<int64_t>(evaluation_.count));
  meet(pass + 1);
}

// The last stage, where the sums of all stages are known.
bool Trainer::is_logging_rank() const {
  return mesh_.pp_rank == recipe_.virtual_stages().last_stage() && mesh_.dp_rank == 0 && mesh_.tp_rank == 0;
}

// What the loss is a mean over, in the whole pass, over all replicas.
double Trainer::loss_count() const {
  double count = 0;
  for (const MicroBatch& batch : batches_) count += objective_.count(batch);
  return mesh_.dp.all_reduce(count, Reduce::sum,
                             objective_.mean_over() == MeanOver::pairs ? "pairs" : "rows with a label");
}

Trainer::Waited Trainer::meet(int64_t next_pass) {
  const double now = reader_.seconds_waited(), for_data = now - std::exchange(data_wait_, now);
  const double signal = stop_.signalled(next_pass);
  const Tensor all = Tensor::from<double>({for_data, student_pass_->take_teacher_wait(), signal}, {3});
  mesh_.role_comm.all_reduce(all, Reduce::max, "waited for data and teacher, and whether to stop");
  const double* most = all.data<double>();
  stop_signal_ = static_cast<int>(most[2]);
  stop_.decide(next_pass, stop_signal_ != 0);
  return {most[0], most[1]};
}

}  // namespace wuneng
