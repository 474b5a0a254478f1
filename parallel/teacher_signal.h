// TeacherSignal: something that the teacher computes of every micro-batch and an objective of the student
// reads: logits, the final hidden state, a layer's output, log-probabilities of labels.
//
// A signal is a matrix [rows, width] per micro-batch, a row for each token. Where it is made and where it is
// wanted is data, so that what moves it (stream.h) knows no signal by name.
#pragma once
#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/row_scaled.h"
#include "parallel/parameter.h"

namespace wuneng {

// How a signal lies on the tensor-parallel ranks of one pipeline stage. Ranges may be uneven, overlap, be all
// columns (replicated), or be empty; the student's need not cover the signal.
struct SignalLayout {
  int stage = 0;
  std::vector<Range> columns;  // by tp rank: what it holds (teacher) or wants (student)
  // Of a student's stage whose ranks all want the same columns: each is sent a share of the rows, and they
  // gather the whole among themselves, so that every byte crosses once.
  bool gathered = false;
};
inline SignalLayout sharded_columns(int stage, int tp, int64_t width) {
  SignalLayout out{stage, {}};
  for (int rank = 0; rank < tp; ++rank) out.columns.push_back(shard_range(width, tp, rank));
  return out;
}
inline SignalLayout replicated_columns(int stage, int tp, int64_t width) {
  return {stage, std::vector<Range>(tp, Range{0, width})};
}
inline SignalLayout gathered_columns(int stage, int tp, int64_t width) {
  SignalLayout out = replicated_columns(stage, tp, width);
  out.gathered = true;
  return out;
}

// How wide a tensor is with some columns of a signal: in i8 each row's scale follows them
// (kernels/row_scaled.h).
inline int64_t sent_columns(DType dtype, int64_t columns) {
  return dtype == DType::i8 ? columns + kernels::kScaleBytes : columns;
}

struct TeacherSignal {
  std::string name;  // "logits", "final_hidden", "layer.3.mixer_output", "label_logprob"
  int64_t width = 0;
  DType dtype = DType::f32;
  SignalLayout teacher, student;
  std::optional<int64_t> layer = {};  // the teacher's layer whose mixer it is of; none: of the whole stage
};

// A rectangle of one signal of one micro-batch.
struct SignalPart {
  Range rows, columns;
  Tensor values;  // [rows.size(), sent_columns(its type, columns.size())]

  // An uninitialised one of a signal's type.
  static SignalPart empty(const TeacherSignal& signal, Range rows, Range columns, Device device) {
    const int64_t width = sent_columns(signal.dtype, columns.size());
    return {rows, columns, Tensor::empty({rows.size(), width}, signal.dtype, device)};
  }
  // [end - begin, columns.size()]: rows of `values` in floating-point numbers, a copy of those in i8.
  Tensor numbers(const Stream& stream, int64_t begin, int64_t end) const {
    const Tensor some = values.rows(begin, end);
    if (some.dtype() != DType::i8) return some;
    const Tensor out = Tensor::empty({end - begin, columns.size()}, DType::f32, some.device());
    kernels::unpack_scaled(stream, {.packed = some, .x = out});
    return out;
  }
};

// What a student's rank gets of one micro-batch: of every signal for its stage, the parts that tile the
// columns that it wants, each over some or all of the rows.
class SignalParts {
 public:
  void expect(const std::string& name) { parts_[name]; }  // a signal for this rank's stage
  void add(const std::string& name, SignalPart part) {    // of an expected signal, in any order
    const auto begins = [](const SignalPart& p) { return std::tuple(p.columns.begin, p.rows.begin); };
    auto& parts = parts_.at(name);
    const auto behind = std::find_if(parts.begin(), parts.end(),
                                     [&](const SignalPart& p) { return begins(p) > begins(part); });
    parts.insert(behind, std::move(part));
  }
  void replace(const std::string& name, SignalPart whole) { parts_.at(name) = {std::move(whole)}; }
  // Ordered by column, then row. Empty where this rank wants none of the signal; throws where it is not for
  // this rank's stage.
  const std::vector<SignalPart>& of(const std::string& name) const {
    if (const auto found = parts_.find(name); found != parts_.end()) return found->second;
    std::string names;
    for (const auto& [known, parts] : parts_) names += (names.empty() ? "" : ", ") + known;
    fail("teacher signal '{}': expected a signal for this rank's pipeline stage, which are: {}", name,
         names.empty() ? "none" : names);
  }
  void clear() { parts_.clear(); }

 private:
  std::map<std::string, std::vector<SignalPart>> parts_;
};

// Where a student's rank gets the teacher's signals from: the stream (stream.h), or a teacher in the same
// process.
class TeacherSource {
 public:
  virtual ~TeacherSource() = default;
  // Valid until release(). Who needs a part longer (a second model chunk of this rank, a backward pass) keeps
  // a copy of its Tensor, which is never written to again.
  virtual const SignalParts& take(int64_t pass, int micro_batch) = 0;
  virtual void release() = 0;
  // The run ends early: no pass from `next` on will be taken, and the teacher ends before pass `end`. Throws
  // away what it sends until then.
  virtual void stop(int64_t /*next*/, int64_t /*end*/) {}
  // Nothing will be taken any more: waits until what this rank has sent has arrived.
  virtual void finish() {}
};

}  // namespace wuneng
