#include "launch/verify/verified_step.h"

#include "launch/train/held_teacher_head.h"
#include "launch/train/open_teacher.h"
#include "launch/train/student_pass.h"
#include "launch/train/teacher_service.h"
#include "launch/train/trainable.h"
#include "launch/train/training_state.h"
#include "model/initialize.h"
#include "runtime/watchdog.h"

namespace wuneng {
namespace {

// Parameters of zero, of which a new student has many, would hide what they are multiplied with. The same in
// every layout.
void move_parameters(const Parameters& parameters) {
  const Initializer moves = normal(0.01f);
  for (Parameter* p : parameters) {
    Parameter by = *p;
    by.var = Var(Tensor::empty(p->var.shape()));
    moves(by, 1);
    const Tensor& values = p->var.value();
    const Tensor moved = values.to(Device{}).to(DType::f32).clone();
    moved.add(by.var.value());
    values.copy_from(moved);
  }
}

void run_student(const TrainRecipe& r, const Mesh& mesh, const TrainingData& data, const Comm& stream,
                 Device device, const Observers& of_student, const Observers& of_teacher, Observations& out) {
  ModelChunks model(r.student, r.virtual_stages(), mesh.pp_rank, student_placement(r, mesh.tp, device),
                    r.student_dtype, r.recompute, r.alignment_width());
  choose_trainable(r, model.parameters());
  check_trainable(r, model.parameters(), mesh.role_comm);
  initialize_student(r, model);
  move_parameters(model.parameters());
  const bool shares = r.zero > 0 && mesh.layout.dp > 1;
  GradientSums gradients(model.parameters(), {mesh.tp, mesh.pp, mesh.dp, mesh.embedding},
                         shares ? SumOverDp::share : SumOverDp::whole);

  std::vector<MicroBatch> batches;
  double count = 0;
  for (int m = 0; m < r.accumulation; ++m) {
    batches.push_back(data.batch(data.passes()[0], m, mesh.dp_rank));
    count += r.objective->count(batches.back());
  }
  count = mesh.dp.all_reduce(count, Reduce::sum, "what the loss is a mean over");
  const OpenTeacher teacher = open_teacher(r, mesh, data, stream, 0, batches, device, of_teacher);
  std::optional<Parameter> head;
  if (r.objective->needs_teacher_head()) head = teacher_head(r, model, teacher.colocated_head).rows;

  StudentPass pass(r, mesh, model, gradients, batches, teacher.source.get(), head ? &*head : nullptr);
  pass.observe(of_student);
  StopAgreement stop = stop_agreement(r, mesh, data, 0);
  stop.signalled(0);
  stop.decide(0, false);
  const HostCopy sums = pass.run(0, true, std::max(1.0, count));
  gradients.finish();
  stop.signalled(1);
  if (teacher.source) teacher.source->finish();
  stop.finish();

  if (mesh.pp_rank == r.virtual_stages().last_stage()) {
    const Tensor& values = sums.read("the objective's sums");
    for (size_t i = 0; i < r.objective->sums().size(); ++i)
      out.put("sum of the objective: " + r.objective->sums()[i],
              values.rows(static_cast<int64_t>(i), static_cast<int64_t>(i) + 1));
  }
  for (const ParameterPart& part : gradients.updates())
    out.add(std::string(kGradientOf) + part.parameter->name, part, part.of(part.parameter->var.grad()));
}

}  // namespace

Observations verified_step(const TrainRecipe& r, const Comm& ranks, Device device, double noise,
                           uint64_t seed) {
  watchdog::enter("verify");
  const Mesh mesh = Mesh::make(ranks, r.layout, r.teacher_layout);
  mesh.connect(device, r.overlap, r.virtual_stages());
  const TrainingData data(r, CheckShare{ranks.rank(), ranks.size()});
  const Comm stream = ranks.split(0, ranks.rank(), "teacher stream");
  if (mesh.teacher) connect_stream(stream, mesh, stream_options(r, data, 0, device));
  Observations out;
  const auto observers = [&](const char* role) {
    return [&out, role, noise, seed](int64_t micro_batch) {
      return recorder(out, fmt::format("{}, micro-batch {}", role, micro_batch), noise, seed);
    };
  };
  if (mesh.role == Role::student) {
    run_student(r, mesh, data, stream, device, observers("student"), observers("teacher"), out);
  } else {
    StepTrace trace(r, mesh);
    serve_teacher(r, mesh, data, stream, 0, device, trace, observers("teacher"));
  }
  return out;
}

}  // namespace wuneng
