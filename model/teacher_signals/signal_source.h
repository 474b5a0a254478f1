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
};

class SignalSource {
 public:
  virtual ~SignalSource() = default;
  // The signals, each from one teacher stage to one student stage, their values of type `dtype`.
  virtual std::vector<TeacherSignal> signals(const SignalEnds& ends, DType dtype) const = 0;
  // Fills part.values [part.rows, part.columns] of `signal` from `hidden` [T, d], the output of the stage of
  // the teacher that this rank has.
  virtual void write(const TeacherSignal& signal, const Decoder& teacher, const Tensor& hidden,
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

std::unique_ptr<SignalSource> make_logits_source();

}  // namespace wuneng
