// Gather, scatter and reduction of rows and heads, and the embedding.
#pragma once
#include <vector>

#include "kernels/backend.h"

namespace wuneng::kernels {

// select: y[t, h] = x[t, map[h]].  sum: y[t, k] = the sum of x[t, h] over all h with map[h] = k. Each is the
// other's gradient.
struct HeadMapArgs {
  Tensor x, y;  // [T, heads, D]
  std::vector<int> map;
  Tensor base;  // added to the result: of y's shape, may be y; undefined: none
};
WUNENG_KERNEL(select_heads, HeadMapArgs);
WUNENG_KERNEL(sum_heads, HeadMapArgs);

// Copies runs of consecutive rows between a tall tensor and a packed one, which holds the runs one after
// another.
struct RowRun {
  int64_t begin, count;
};
struct RowRunsArgs {
  Tensor tall, packed;  // [T, ..], [sum of counts, ..]
  std::vector<RowRun> runs;
  bool accumulate = false;
  Tensor rows;  // [rows of packed] i32 on a GPU, read in place of runs, of which only the sizes count then:
                // the row of tall of each; undefined: as runs say
};
WUNENG_KERNEL(pack_rows, RowRunsArgs);    // packed (+)= tall's runs
WUNENG_KERNEL(unpack_rows, RowRunsArgs);  // tall's runs (+)= packed

// to[r] = from[r] for each r >= 0 of rows.
struct CopyRowsArgs {
  Tensor from, to;  // [R, ..], of one type
  Tensor rows;      // [n] i32, none twice
};
WUNENG_KERNEL(copy_rows, CopyRowsArgs);

// Copies of whole tensors, all in one launch.
struct CopyTensorsArgs {
  struct Copy {
    Tensor from, to;  // of one type and as many elements
  };
  std::vector<Copy> copies;
};
WUNENG_KERNEL(copy_tensors, CopyTensorsArgs);

// y[.., :] = [a, b] along the last dimension.
struct ConcatArgs {
  Tensor a, b, y;  // [.., A], [.., B], [.., A + B]
};
WUNENG_KERNEL(concat, ConcatArgs);
struct ConcatBackwardArgs {
  Gradient da, db;  // either may be undefined: not computed
  Tensor dy;
};
WUNENG_KERNEL(concat_backward, ConcatBackwardArgs);

// y[t] = table[tokens[t] - begin], zero for tokens outside [begin, begin + rows of table): one shard of a
// vocabulary-parallel embedding.
struct EmbeddingArgs {
  Tensor table;   // weight [rows, d], also f16 or i8
  Tensor tokens;  // [T] i32
  int64_t begin;
  Tensor y;      // [T, d]
  Tensor scale;  // [rows] f32, of a table in i8: MatmulArgs::b_scale
};
WUNENG_KERNEL(embedding, EmbeddingArgs);
struct EmbeddingBackwardArgs {
  Tensor dy;      // [T, d]
  Tensor tokens;  // [T] i32, on the host, which sorts them by row
  int64_t begin;
  Tensor dtable;  // [rows, d] f32, accumulated into
};
WUNENG_KERNEL(embedding_backward, EmbeddingBackwardArgs);

}  // namespace wuneng::kernels
