// Moving rows and heads about.
#pragma once
#include <vector>

#include "kernels/twin.h"

namespace wuneng::kernels {

// select: y[t, h] (+)= x[t, map[h]].  sum (select's gradient): y[t, map[h]] += x[t, h] for all h; y zeroed
// first unless accumulate.
struct HeadMapArgs {
  Tensor x, y;  // [T, heads, D]
  std::vector<int> map;
  bool accumulate = false;
};
WUNENG_KERNEL(select_heads, HeadMapArgs);
WUNENG_KERNEL(sum_heads, HeadMapArgs);

// Runs of rows copied between a tall and a packed tensor: packed holds the runs one after another.
struct RowRun {
  int64_t begin, count;
};
struct RowRunsArgs {
  Tensor tall, packed;  // [T, ..], [sum of counts, ..]
  std::vector<RowRun> runs;
  bool accumulate = false;
};
WUNENG_KERNEL(pack_rows, RowRunsArgs);    // packed (+)= tall's runs
WUNENG_KERNEL(unpack_rows, RowRunsArgs);  // tall's runs (+)= packed

// y[.., :] = [a, b] along the last dimension, and back (adding).
struct ConcatArgs {
  Tensor a, b, y;  // [.., A], [.., B], [.., A + B]
};
WUNENG_KERNEL(concat, ConcatArgs);
WUNENG_KERNEL(split_add, ConcatArgs);  // a += y's first columns, b += its last

// y[t] = table[tokens[t] - begin], zero for tokens outside [begin, begin + rows of table): one shard of a
// vocabulary-parallel embedding.
struct EmbeddingArgs {
  Tensor table;   // weight [rows, d]
  Tensor tokens;  // [T] i32
  int64_t begin;
  Tensor y;  // [T, d]
};
WUNENG_KERNEL(embedding, EmbeddingArgs);
struct EmbeddingBackwardArgs {
  Tensor dy;      // [T, d]
  Tensor tokens;  // [T] i32, on the host: who adds to a row is found out there
  int64_t begin;
  Tensor dtable;  // [rows, d] f32, added to
};
WUNENG_KERNEL(embedding_backward, EmbeddingBackwardArgs);

}  // namespace wuneng::kernels
