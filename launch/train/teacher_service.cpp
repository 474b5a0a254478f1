#include "launch/train/teacher_service.h"

#include "launch/train/checkpoint_weights.h"
#include "launch/train/on_policy.h"
#include "launch/train/teacher_placement.h"
#include "parallel/pipeline.h"
#include "parallel/product_choices.h"
#include "runtime/watchdog.h"

namespace wuneng {

std::vector<SourcedSignal> streamed_signals(const TrainRecipe& r) {
  const auto out = teacher_signals_of(r);
  for (const SourcedSignal& s : out) {
    const int stage = s.signal.student.stage, stages = r.layout.pp;
    require(
        r.has_loss(stage),
        "loss.objective: it asks for the teacher signal '{}' on student stage {} of {}, expected a stage on "
        "which it has a loss, found none there",
        s.signal.name, stage, stages);
  }
  return out;
}

StreamOptions stream_options(const TrainRecipe& r, const TrainingData& data, int64_t steps_done,
                             Device device) {
  StreamOptions o;
  for (const SourcedSignal& s : streamed_signals(r)) o.signals.push_back(s.signal);
  o.rows = r.rows();
  o.micro_batches = static_cast<int>(r.accumulation);
  o.credits = r.credits;
  o.device = device;
  o.first_pass = first_pass(data.passes(), steps_done);
  o.end_pass = static_cast<int64_t>(data.passes().size());
  return o;
}

StopAgreement stop_agreement(const TrainRecipe& r, const Mesh& mesh, const TrainingData& data,
                             int64_t steps_done) {
  int credits = 1;
  if (mesh.teacher) {
    std::vector<TeacherSignal> signals;
    for (const SourcedSignal& s : streamed_signals(r)) signals.push_back(s.signal);
    for (const TeacherSignal& s : signals)
      credits = std::max(credits, stream_credits(signals, r.credits, s.student.stage));
  }
  return {mesh, teacher_lead(credits, mesh.teacher ? mesh.teacher->dp : 1, r.accumulation),
          first_pass(data.passes(), steps_done), static_cast<int64_t>(data.passes().size())};
}

RunEnd serve_teacher(const TrainRecipe& r, const Mesh& mesh, const TrainingData& data, const Comm& stream,
                     int64_t steps_done, Device device, StepTrace& trace, const Observers& observers) {
  Decoder model(
      *r.teacher,
      Placement{mesh.tp, mesh.pp_rank, mesh.layout.pp, device, r.activations_on(device, r.teacher_dtype)},
      r.teacher_dtype);
  load_weights(model, *open_weights(r.teacher_path), 0);

  std::vector<SourcedSignal> signals = streamed_signals(r);
  std::erase_if(signals, [&](const SourcedSignal& s) { return s.signal.teacher.stage != mesh.pp_rank; });
  const StreamOptions options = stream_options(r, data, steps_done, device);
  TeacherSender sender(stream, mesh, options);

  const auto served = [shape = stream_shape(mesh, options.micro_batches),
                       dp_rank = mesh.dp_rank](int64_t pass) { return items_served(shape, pass, dp_rank); };
  PassReader reader(data, options.first_pass, r.data_threads, served);
  const Pipeline pipeline(mesh.pp, model.hidden_size(), model.stream(), model.placement().activations);
  StopAgreement stop = stop_agreement(r, mesh, data, steps_done);
  int64_t pass = options.first_pass;
  for (; pass < options.end_pass && !stop.teacher_stops(pass); ++pass) {
    watchdog::enter(fmt::format("pass {}", pass));
    const Pass& planned = data.passes()[pass];
    if (planned.trains) trace.begin(planned.step + 1);
    const std::vector<StreamItem> items = served(pass);
    std::vector<MicroBatch> batches = reader.next();
    PipelineWork work;
    work.train = false;
    work.rows = [&](int) { return r.rows(); };
    work.carried_in = [&](int /*chunk*/) { return model.carried_in(); };
    work.carried_out = [&](int /*chunk*/) { return model.carried_out(); };
    work.forward = [&](Tape& tape, int m, int /*chunk*/, const StageState& input) {
      sender.meet();
      if (is_on_policy(r, data, items[m])) receive_on_policy(stream, mesh, items[m], batches[m]);
      if (observers)
        tape.observe(observers(int64_t{items[m].micro_batch} * r.layout.dp + items[m].student_dp));
      MixerTaps taps = taps_of(signals);
      const StageState out = model.forward(tape, batches[m], input, taps);
      give_signals(signals, {model, batches[m], out.hidden.value(), taps},
                   [&](const TeacherSignal& signal, const FillPart& fill) {
                     const trace::Span span(trace::Kind::stream, signal.name);
                     sender.send(signal.name, items[m], fill);
                   });
      // Ranks of tp are at the same place of their programs; what is under way to others ends without them.
      if (r.time_products && pass == options.first_pass && m == 0) time_products(mesh.tp, model.stream());
      return out;
    };
    pipeline.run(forward_only({mesh.layout.pp}, mesh.pp_rank, static_cast<int>(items.size())), work);
    if (planned.trains) trace.end(planned.step + 1);
  }
  watchdog::enter("waiting for the student to take the last signals");
  sender.flush();
  stop.finish();
  return {reader.seconds_waited(), pass < options.end_pass};
}

}  // namespace wuneng
