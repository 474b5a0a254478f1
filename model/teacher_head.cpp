#include "model/teacher_head.h"

namespace wuneng {

Range shared_columns(Range held, const ModelConfig& teacher) { return held.common({0, teacher.vocab_size}); }

Parameter empty_teacher_head(const ModelConfig& c, Range columns, DType dtype, Device device) {
  Parameter head;
  head.name = c.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
  head.global_shape = {c.vocab_size, c.hidden_size};
  head.held = head.owned = columns;
  head.trainable = false;
  head.var = Var(Tensor::empty(head.local_shape(), dtype, device), false);
  return head;
}

Parameter load_teacher_head(WeightSource& source, Range columns, DType dtype, Device device) {
  const ModelConfig& c = source.config();
  Parameter head = empty_teacher_head(c, columns, dtype, device);
  require(columns == columns.common({0, c.vocab_size}), "{}: {}: expected rows within 0..{}, found {}..{}",
          source.where(), head.name, c.vocab_size, columns.begin, columns.end);
  if (columns.size() > 0) source.read_shard(head);
  return head;
}

Parameter rows_of_head(const Parameter& head, Range columns) {
  WUNENG_ASSERT(columns == columns.common(head.held) && !head.row_scale.defined());
  Parameter out = head;
  out.held = out.owned = columns;
  out.trainable = false;
  const int64_t first = columns.begin - head.held.begin;
  out.var = Var(head.var.value().rows(first, first + columns.size()), false);
  return out;
}

}  // namespace wuneng
