// What goes into the teacher's mixers and what comes out of them [T, d], a signal for each layer of the
// student: from the teacher's stage that has the layer of the layer map to the student's stage. All ranks of
// a stage hold it; those of the student gather it, so that each byte crosses once.
#include "model/layer_map.h"
#include "model/teacher_signals/signal_source.h"

namespace wuneng {
namespace {

class MixerTapSource : public SignalSource {
 public:
  MixerTapSource(const char* name, Var MixerTap::*tap, const SignalOptions& options)
      : name_(name), tap_(tap), dtype_(options.rounded_to.value_or(options.activations)) {}

  std::vector<TeacherSignal> signals(const SignalEnds& ends) const override {
    const Layout &teacher = ends.teacher_layout, &student = ends.student_layout;
    const int64_t width = ends.teacher.hidden_size;
    std::vector<TeacherSignal> out;
    for (int64_t i = 0; i < ends.student.num_layers; ++i) {
      const int64_t layer = ends.layer_map.at(i);
      const int from = stage_of_layer(ends.teacher_stages, layer),
                to = stage_of_layer(stages_of(ends.student, student.pp), i);
      out.push_back({fmt::format("{}.{}", name_, i), width, dtype_,
                     replicated_columns(from, teacher.tp, width), gathered_columns(to, student.tp, width),
                     layer});
    }
    return out;
  }

  void write(const TeacherSignal& signal, const TeacherOutputs& outputs,
             const SignalPart& part) const override {
    const Tensor& all = (outputs.taps.at(*signal.layer).*tap_).value();
    part.values.copy_from(all.rows(part.rows.begin, part.rows.end));
  }

 private:
  const char* name_;
  Var MixerTap::*tap_;
  DType dtype_;
};

}  // namespace

std::unique_ptr<SignalSource> make_mixer_input_source(const SignalOptions& options) {
  return std::make_unique<MixerTapSource>("mixer_input", &MixerTap::input, options);
}

std::unique_ptr<SignalSource> make_mixer_output_source(const SignalOptions& options) {
  return std::make_unique<MixerTapSource>("mixer_output", &MixerTap::output, options);
}

}  // namespace wuneng
