#include "model/objectives/teacher_logits.h"

#include <algorithm>

#include "kernels/matmul.h"

namespace wuneng {

TeacherLogits::TeacherLogits(TeacherDistribution teacher, Range held, int64_t rows)
    : teacher_(std::move(teacher)), held_(held) {
  const auto inside = [&](const Range& c) { return held.begin <= c.begin && c.end <= held.end; };
  for (const SignalPart& s : teacher_.logits)
    require(inside(s.columns) && s.rows == Range{0, rows} &&
                s.values.shape() == Shape{rows, sent_columns(s.values.dtype(), s.columns.size())},
            "teacher's logits, rows {}..{}, columns {}..{} of shape {}: expected all {} rows inside the "
            "student's columns {}..{}",
            s.rows.begin, s.rows.end, s.columns.begin, s.columns.end, to_string(s.values.shape()), rows,
            held.begin, held.end);
  std::sort(teacher_.logits.begin(), teacher_.logits.end(),
            [](const SignalPart& a, const SignalPart& b) { return a.columns.begin < b.columns.begin; });
  if (!teacher_.head) return;
  const Parameter& head = *teacher_.head;
  require(
      inside(head.held) && teacher_.hidden.rows == Range{0, rows} &&
          teacher_.hidden.columns == Range{0, head.var.dim(1)} && teacher_.hidden.values.dim(0) == rows,
      "teacher's hidden state, rows {}..{} of shape {}, and columns {}..{} of its output matrix, of shape "
      "{}: expected all {} rows, and columns inside the student's {}..{}",
      teacher_.hidden.rows.begin, teacher_.hidden.rows.end, to_string(teacher_.hidden.values.shape()),
      head.held.begin, head.held.end, to_string(head.var.shape()), rows, held.begin, held.end);
}

std::vector<kernels::TeacherColumns> TeacherLogits::chunk(const Stream& stream, int64_t begin, int64_t end) {
  std::vector<kernels::TeacherColumns> out;
  for (const SignalPart& s : teacher_.logits)
    out.push_back({s.numbers(stream, begin, end), 0, s.columns.begin - held_.begin});
  if (!teacher_.head || teacher_.head->held.size() == 0) return out;
  const Tensor& head = teacher_.head->var.value();
  if (!product_.defined() || product_.dim(0) < end - begin)
    product_ = Tensor::empty({end - begin, head.dim(0)}, DType::f32, stream.device);
  const Tensor logits = product_.rows(0, end - begin);
  kernels::matmul(
      stream,
      {.a = teacher_.hidden.numbers(stream, begin, end), .b = head, .c = logits, .transpose_b = true});
  out.push_back({logits, 0, teacher_.head->held.begin - held_.begin});
  return out;
}

}  // namespace wuneng
