#include "launch/train/student_pass.h"

#include <chrono>

#include "runtime/trace.h"

namespace wuneng {

using Clock = std::chrono::steady_clock;

HostCopy StudentPass::run(int64_t pass, bool trains, double loss_tokens) {
  const int stages = mesh_.layout.pp, count = static_cast<int>(recipe_.accumulation);
  const Tensor sums =
      Tensor::zeros({static_cast<int64_t>(objective_.sums().size())}, DType::f64, model_.device());
  const PipelineSchedule& kind = trains ? *recipe_.schedule : forward_only;
  // Where nothing passes between stages each is a pipeline of its own.
  const bool passes = objective_.passes_hidden_state() || model_.carries_between_stages();
  const VirtualStages on = passes ? recipe_.virtual_stages() : VirtualStages{};
  const int stage = passes ? mesh_.pp_rank : 0;
  const Schedule schedule = kind(on, stage, count);
  const Stage::Completed completed = [&](const Parameter* first) { gradients_.complete_from(first); };
  PipelineWork work;
  work.train = trains;
  work.rows = [&](int) { return recipe_.rows(); };
  work.hidden_rows = [&](int) { return model_.hidden_rows(recipe_.rows()); };
  work.carried_in = [&](int chunk) { return model_[chunk].carried_in(); };
  work.carried_out = [&](int chunk) { return model_[chunk].carried_out(); };
  work.forward = [&](Tape& tape, int m, int chunk, const StageState& input) {
    const bool completes = trains && m == last_backward(schedule, chunk);
    const StageOutputs out =
        forward(tape, pass, m, chunk, input, completes ? completed : nullptr, loss_tokens, sums);
    if (on.last(stage, chunk)) return StageState{out.loss, {}};
    // The pipeline gives the last virtual stage's loss its gradient; this one's is 1 as well.
    if (tape.recording() && out.loss.defined()) out.loss.set_grad(Tensor::from<float>({1.0f}, {1}));
    return out.state;
  };
  Pipeline(passes ? PipelineRanks(mesh_.pp, mesh_.pp_gradients) : Comm(), on,
           objective_.passes_hidden_state() ? model_.hidden_size() : 0, model_.stream(), model_.activations())
      .run(schedule, work);

  // Stages without a loss have nothing to add; where others than the last have one, all stages meet.
  bool elsewhere = false;
  for (int s = 0; s < stages; ++s)
    elsewhere = elsewhere || (recipe_.has_loss(s) && s != recipe_.virtual_stages().last_stage());
  if (recipe_.has_loss(mesh_.pp_rank)) mesh_.dp.all_reduce(sums, Reduce::sum, "objective's sums over dp");
  if (elsewhere) mesh_.pp.all_reduce(sums, Reduce::sum, "objective's sums over pp");
  return HostCopy(sums);
}

StageOutputs StudentPass::forward(Tape& tape, int64_t pass, int micro_batch, int chunk,
                                  const StageState& input, const Stage::Completed& completed,
                                  double loss_tokens, const Tensor& sums) {
  static const SignalParts none;
  if (observers_) tape.observe(observers_(int64_t{micro_batch} * mesh_.layout.dp + mesh_.dp_rank));
  const VirtualStages on = recipe_.virtual_stages();
  const bool teaches = teacher_ && chunk + 1 == on.chunks;  // once a micro-batch
  const StageInputs inputs{.student = model_[chunk],
                           .batch = batches_[micro_batch],
                           .state = input,
                           .completed = completed,
                           .teacher = [&]() -> const SignalParts& {
                             if (!teaches) return none;
                             const auto begin = Clock::now();
                             // A teacher in this process computes them; without one they are read.
                             const trace::Span span(mesh_.teacher            ? trace::Kind::stream
                                                    : recipe_.runs_teacher() ? trace::Kind::compute
                                                                             : trace::Kind::waiting,
                                                    "teacher's signals");
                             const SignalParts& signals = teacher_->take(pass, micro_batch);
                             teacher_wait_ += std::chrono::duration<double>(Clock::now() - begin).count();
                             return signals;
                           },
                           .has_loss = objective_.has_loss(on.at(mesh_.pp_rank, chunk), on.count()),
                           .loss_tokens = loss_tokens,
                           .teacher_head = teacher_head_};
  StageOutputs out = objective_.forward(tape, inputs, sums);
  if (teaches) teacher_->release();
  return out;
}

}  // namespace wuneng
