#include "launch/train/open_teacher.h"

#include "launch/train/cached_teacher.h"
#include "launch/train/colocated_teacher.h"
#include "launch/train/precomputed_teacher.h"
#include "launch/train/teacher_service.h"

namespace wuneng {

OpenTeacher open_teacher(const TrainRecipe& r, const Mesh& mesh, const TrainingData& data, const Comm& stream,
                         int64_t steps_done, const std::vector<MicroBatch>& batches, Device device,
                         const Observers& observers) {
  OpenTeacher out;
  if (mesh.teacher) {
    out.source = std::make_unique<StreamedTeacher>(stream, mesh, stream_options(r, data, steps_done, device));
  } else if (!r.precomputed.empty()) {
    out.source = std::make_unique<PrecomputedTeacher>(r, mesh, data, batches, device);
  } else if (r.cached) {
    out.source =
        std::make_unique<CachedTeacher>(r, mesh, data, first_pass(data.passes(), steps_done), device);
  } else if (r.has_teacher()) {
    auto colocated = std::make_unique<ColocatedTeacher>(r, mesh, batches, device);
    colocated->observe(observers);
    out.colocated_head = colocated->head();
    out.source = std::move(colocated);
  }
  return out;
}

}  // namespace wuneng
