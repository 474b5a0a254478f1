// The teacher's k most probable tokens, from its last stage to the student's:
// their ids [T, k] i32, in order, and the log-probabilities of them and of all
// others together [T, k + 1] f32, at the loss's temperature, over the
// vocabulary that both models share. The ranks of a teacher's stage each choose
// among their columns, a chunk of rows at a time, exchange what they have
// chosen and choose again. Those of the student gather it.
#include "kernels/top_k.h"

#include <algorithm>

#include "model/teacher_signals/signal_source.h"

namespace wuneng {
namespace {

constexpr const char* kIds = "top_k.ids";

class TopKSource : public SignalSource {
 public:
  explicit TopKSource(const SignalOptions& options) : options_(options) {}

  std::vector<TeacherSignal> signals(const SignalEnds& ends) const override {
    const Layout &teacher = ends.teacher_layout, &student = ends.student_layout;
    const auto signal = [&](const char* name, int64_t width, DType dtype) {
      return TeacherSignal{name, width, dtype, replicated_columns(teacher.pp - 1, teacher.tp, width),
                           gathered_columns(ends.output_stage, student.tp, width)};
    };
    return {signal(kIds, options_.top_k, DType::i32),
            signal("top_k.logprobs", options_.top_k + 1, DType::f32)};
  }

  std::vector<Tensor> make(const TeacherOutputs& outputs) const override {
    const Decoder& model = outputs.model;
    const Device device = model.placement().device;
    const int64_t T = outputs.batch.rows(), k = options_.top_k,
                  rows = device.kind == DeviceKind::cuda ? 1024 : 128;
    const Tensor ids = Tensor::empty({T, k}, DType::i32, device),
                 logprobs = Tensor::empty({T, k + 1}, DType::f32, device);
    const Range columns = model.head()->held.common({0, options_.shared_vocabulary});
    const Tensor buffer = Tensor::empty({std::min(rows, T), columns.size()}, DType::f32, device);
    for (int64_t begin = 0; begin < T; begin += rows) {
      const int64_t end = std::min(begin + rows, T);
      choose(model, outputs.hidden.rows(begin, end), columns, buffer.rows(0, end - begin),
             ids.rows(begin, end), logprobs.rows(begin, end));
    }
    return {ids, logprobs};
  }

  void write(const TeacherSignal& signal, const TeacherOutputs& outputs,
             const SignalPart& part) const override {
    part.values.copy_from(outputs.made[signal.name == kIds ? 0 : 1].rows(part.rows.begin, part.rows.end));
  }

 private:
  // Of some rows; `logits` is for those of this rank.
  void choose(const Decoder& model, const Tensor& hidden, Range columns, const Tensor& logits,
              const Tensor& ids, const Tensor& logprobs) const {
    const Comm& tp = model.placement().tp;
    const int64_t C = hidden.dim(0), k = options_.top_k;
    model.logits(hidden, columns, logits);
    kernels::TopKArgs mine{.x = logits.view({1, C, columns.size()}),
                           .first = columns.begin,
                           .factor = 1 / options_.temperature,
                           .normalize = true,
                           .top = logprobs,
                           .top_ids = ids};
    if (tp.size() == 1) return kernels::top_k(model.stream(), mine);
    const auto fresh = [&](Shape shape, DType dtype) {
      return Tensor::empty(std::move(shape), dtype, model.placement().device);
    };
    mine.normalize = false;
    mine.top = fresh({C, k + 1}, DType::f32), mine.top_ids = fresh({C, k}, DType::i32);
    kernels::top_k(model.stream(), mine);
    const Tensor all = fresh({tp.size(), C, k + 1}, DType::f32),
                 all_ids = fresh({tp.size(), C, k}, DType::i32);
    tp.all_gather(mine.top, all, "largest logits of the teacher's ranks");
    tp.all_gather(mine.top_ids, all_ids, "their tokens");
    kernels::top_k(
        model.stream(),
        {.x = all, .ids = all_ids, .has_rest = true, .normalize = true, .top = logprobs, .top_ids = ids});
  }

  SignalOptions options_;
};

}  // namespace

std::unique_ptr<SignalSource> make_top_k_source(const SignalOptions& options) {
  return std::make_unique<TopKSource>(options);
}

}  // namespace wuneng
