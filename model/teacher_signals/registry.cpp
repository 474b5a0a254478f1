#include "model/teacher_signals/signal_source.h"

namespace wuneng {

std::map<std::string, SignalSourceMaker>& signal_source_registry() {
  static std::map<std::string, SignalSourceMaker> registry = {
      {"logits", make_logits_source},
      {"hidden", make_hidden_source},
      {"label_logprob", make_label_logprob_source},
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

MixerTaps taps_of(const std::vector<SourcedSignal>& signals) {
  MixerTaps out;
  for (const auto& [signal, source] : signals)
    if (signal.layer) out[*signal.layer];
  return out;
}

}  // namespace wuneng
