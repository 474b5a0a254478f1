// The teacher's ranks: forward alone over the same micro-batches as the student, logits into the stream.
#include "launch/train/train.h"
#include "model/hugging_face.h"
#include "parallel/pipeline.h"

namespace wuneng {

double serve_teacher(const TrainRecipe& r, const Mesh& mesh, const TrainingData& data, const Comm& stream,
                     int64_t done, Device device) {
  Decoder model(
      *r.teacher,
      Placement{mesh.tp, mesh.pp_rank, mesh.layout.pp, device, r.activations_on(device, r.teacher_dtype)},
      r.teacher_dtype);
  load_hugging_face(model, r.teacher_path, 0);
  const StreamOptions options = stream_options(r, data, done, device);
  std::unique_ptr<TeacherSender> sender;
  if (mesh.last_stage()) sender = std::make_unique<TeacherSender>(stream, mesh, options);
  const Pipeline pipeline(mesh.pp, model.hidden_size(), model.stream(), model.placement().activations);
  const auto served = [shape = options.shape, dp_rank = mesh.dp_rank](int64_t round) {
    return items_served(shape, round, dp_rank);
  };
  RoundReader reader(data, options.first_round, r.data_threads, served);
  for (int64_t i = options.first_round; i < options.end_round; ++i) {
    const std::vector<StreamItem> items = served(i);
    const std::vector<MicroBatch> batches = reader.next();
    PipelineWork work;
    work.train = false;
    work.rows = [&](int) { return r.rows(); };
    work.forward = [&](Tape& tape, int m, const Var& hidden) {
      const Var out = model.forward(tape, batches[m], hidden);
      if (sender)
        sender->send(items[m],
                     [&](Range columns, const Tensor& frame) { model.logits(out.value(), columns, frame); });
      return out;
    };
    pipeline.run(forward_only(mesh.layout.pp, mesh.pp_rank, static_cast<int>(items.size())), work);
  }
  if (sender) sender->flush();
  return reader.seconds_waited();
}

}  // namespace wuneng
