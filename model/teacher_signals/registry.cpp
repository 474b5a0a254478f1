#include <algorithm>

#include "model/teacher_signals/signal_source.h"

namespace wuneng {
namespace {

// Some rows at a time are written in f32 and packed.
void fill_scaled(const SignalSource& source, const TeacherSignal& signal, const TeacherOutputs& outputs,
                 const SignalPart& part) {
  const Device device = part.values.device();
  const int64_t together = device.kind == DeviceKind::cuda ? 1024 : 128;
  for (int64_t begin = 0; begin < part.rows.size(); begin += together) {
    const int64_t end = std::min(begin + together, part.rows.size());
    const Range rows{part.rows.begin + begin, part.rows.begin + end};
    const Tensor x = Tensor::empty({end - begin, part.columns.size()}, DType::f32, device);
    source.write(signal, outputs, {rows, part.columns, x});
    kernels::pack_scaled(outputs.model.stream(), {.x = x, .packed = part.values.rows(begin, end)});
  }
}

}  // namespace

std::map<std::string, SignalSourceMaker>& signal_source_registry() {
  static std::map<std::string, SignalSourceMaker> registry = {
      {"logits", make_logits_source},
      {"hidden", make_hidden_source},
      {"label_logprob", make_label_logprob_source},
      {"top_k", make_top_k_source},
      {"mixer_input", make_mixer_input_source},
      {"mixer_output", make_mixer_output_source},
  };
  return registry;
}

std::vector<SourcedSignal> teacher_signals(const std::vector<std::string>& names, const SignalEnds& ends,
                                           const SignalOptions& options) {
  std::vector<SourcedSignal> out;
  for (const std::string& name : names) {
    const auto found = signal_source_registry().find(name);
    require(found != signal_source_registry().end(), "teacher signal '{}': there is no source of that name",
            name);
    const std::shared_ptr<const SignalSource> source = found->second(options);
    for (TeacherSignal& signal : source->signals(ends)) out.push_back({std::move(signal), source});
  }
  return out;
}

void give_signals(const std::vector<SourcedSignal>& signals, TeacherOutputs outputs,
                  const std::function<void(const TeacherSignal& signal, const FillPart& fill)>& give) {
  const SignalSource* made_by = nullptr;
  for (const SourcedSignal& s : signals) {
    if (s.source.get() != made_by) outputs.made = s.source->make(outputs);
    made_by = s.source.get();
    give(s.signal, [&](const SignalPart& part) {
      if (s.signal.dtype == DType::i8) return fill_scaled(*s.source, s.signal, outputs, part);
      s.source->write(s.signal, outputs, part);
    });
  }
}

MixerTaps taps_of(const std::vector<SourcedSignal>& signals) {
  MixerTaps out;
  for (const auto& [signal, source] : signals)
    if (signal.layer) out[*signal.layer];
  return out;
}

}  // namespace wuneng
