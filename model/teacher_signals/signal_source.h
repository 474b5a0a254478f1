// Signal sources: what a teacher can give of a micro-batch (parallel/teacher_signal.h). One file here and a
// line in registry.cpp make a new one (docs/extending.md); the stream moves any of them.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/decoder.h"
#include "parallel/mesh.h"
#include "parallel/teacher_signal.h"

namespace wuneng {

// The two models and how each is laid out on its ranks.
struct SignalEnds {
  const ModelConfig &teacher, &student;
  Layout teacher_layout, student_layout;
  std::vector<Range> teacher_stages;  // the layers of each: stages_of(), or those of a colocated teacher
  std::vector<int64_t> layer_map;     // model/layer_map.h
  int output_stage;                   // of the student: which has its output
};

// What a stage of the teacher has computed of a micro-batch.
struct TeacherOutputs {
  const Decoder& model;  // that stage
  const MicroBatch& batch;
  const Tensor& hidden;   // [T, d], the stage's output; on the last stage after the final norm
  const MixerTaps& taps;  // of the layers that the stage's signals name (TeacherSignal::layer)
  Tensor made = {};       // by SignalSource::make
};

class SignalSource {
 public:
  virtual ~SignalSource() = default;
  // The signals, each from one teacher stage to one student stage, their values of type `dtype`.
  virtual std::vector<TeacherSignal> signals(const SignalEnds& ends, DType dtype) const = 0;
  // What the tensor-parallel ranks of a signal's stage compute together for write(), which each calls for the
  // parts that it sends. Collective, once a micro-batch and signal. Undefined: nothing.
  virtual Tensor make(const TeacherOutputs&) const { return {}; }
  // Fills part.values [part.rows, part.columns] of `signal`, one of the stage that this rank has.
  virtual void write(const TeacherSignal& signal, const TeacherOutputs& outputs,
                     const SignalPart& part) const = 0;
};

using SignalSourceMaker = std::unique_ptr<SignalSource> (*)();
// By the name that objectives ask for. Sources from outside this folder add themselves before a recipe is
// read.
std::map<std::string, SignalSourceMaker>& signal_source_registry();

// A signal and what makes it.
struct SourcedSignal {
  TeacherSignal signal;
  std::shared_ptr<const SignalSource> source;
};
// Of all names, in order; throws where a name is unknown.
std::vector<SourcedSignal> teacher_signals(const std::vector<std::string>& names, const SignalEnds& ends,
                                           DType dtype);
// What a stage is to fill for these signals of its own.
MixerTaps taps_of(const std::vector<SourcedSignal>& signals);

std::unique_ptr<SignalSource> make_logits_source();
std::unique_ptr<SignalSource> make_label_logprob_source();
std::unique_ptr<SignalSource> make_mixer_input_source();
std::unique_ptr<SignalSource> make_mixer_output_source();

}  // namespace wuneng
