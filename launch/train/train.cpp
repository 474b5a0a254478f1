#include "launch/train/train.h"

#include <cstdio>

#include "launch/train/teacher_service.h"
#include "launch/train/trainer.h"
#include "runtime/collective_error.h"
#include "runtime/signals.h"
#include "runtime/watchdog.h"

namespace wuneng {
namespace {

void require_same(const Comm& world, const char* what, const std::string& mine) {
  const auto all = world.all_gather_text(mine, what);
  for (size_t r = 0; r < all.size(); ++r)
    if (all[r] != all[0])
      fail_together(world, fmt::format("{}: rank {} has {}, rank 0 has {}: do all nodes see the same files?",
                                       what, r, all[r], all[0]));
}

// What the data costs: the rank that waited longest, of each role.
void report_waiting(const Mesh& mesh, double seconds) {
  const bool student = mesh.role == Role::student;
  const double of_student = mesh.world.all_reduce(student ? seconds : 0, Reduce::max, "waited for data"),
               of_teacher = mesh.world.all_reduce(student ? 0 : seconds, Reduce::max, "waited for data");
  if (mesh.world.rank() == 0)
    std::printf("data: waited for at most %.2f s on a student rank%s\n", of_student,
                mesh.teacher ? fmt::format(", {:.2f} s on a teacher rank", of_teacher).c_str() : "");
}

// Has any rank received a signal before there is anything to save?
bool stops_already(const Comm& world) {
  const int signal = static_cast<int>(
      world.all_reduce(static_cast<double>(signals::stop_requested()), Reduce::max, "whether to stop"));
  if (signal != 0 && world.rank() == 0)
    std::printf("%s: stopped before the first step; exit code %d\n", signals::name(signal),
                signals::kStopped);
  return signal != 0;
}

}  // namespace

bool train(const TrainRecipe& recipe, TrainingData& data) {
  // 1. Ranks, devices and their connections.
  watchdog::enter("start");
  const Mesh mesh = Mesh::make(Comm::world(), recipe.layout, recipe.teacher_layout);
  const Device device = parse_device(recipe.device, Runtime::local_rank());
  reserve_gpu_memory(mesh.world, device, recipe.gpu_memory);
  mesh.connect(device, recipe.overlap, recipe.virtual_stages());

  // 2. The data, the same on all ranks, and the run's directory.
  require_same(mesh.world, "fingerprint of the data", data.fingerprint());
  require_same(mesh.world, "student.init_from", recipe.init_from);  // a root's newest checkpoint may change
  require_same(mesh.world, "teacher.path", recipe.teacher_path);
  RunDirectory directory(recipe, mesh.world);
  if (mesh.world.rank() == 0) {
    for (const std::string& note : recipe.notes) std::printf("%s\n", note.c_str());
    for (const std::string& line : data.summary()) std::printf("%s\n", line.c_str());
    std::fflush(stdout);
  }

  // 3. Where the run starts.
  const RunStart start = directory.find_start();
  data.resume_at({start.step, start.sequence});
  if (stops_already(mesh.world)) {
    directory.release();
    return true;
  }
  if (mesh.world.rank() == 0 && start.step >= recipe.steps())
    std::printf("%s: its %lld steps are done, optimizer.steps = %lld: there is nothing to train\n",
                start.checkpoint.c_str(), static_cast<long long>(start.step),
                static_cast<long long>(recipe.steps()));

  // 4. The two roles.
  const Comm stream = mesh.world.split(0, mesh.world.rank(), "teacher stream");
  if (mesh.teacher) connect_stream(stream, mesh, stream_options(recipe, data, start.step, device));
  StepTrace trace(recipe, mesh);
  watchdog::enter("loading the model");
  const RunEnd end = mesh.role == Role::student
                         ? Trainer(recipe, mesh, data, stream, directory, start, device, trace).run()
                         : serve_teacher(recipe, mesh, data, stream, start.step, device, trace);
  watchdog::enter("end");
  trace.finish();
  report_waiting(mesh, end.data_wait);
  directory.release();
  return end.stopped;
}

}  // namespace wuneng
