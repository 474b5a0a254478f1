#include <algorithm>
#include <numeric>

#include "kernels/cuda/upload.h"
#include "kernels/rows.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {

using wuneng::cuda::as_float;
using wuneng::cuda::for_each;

void select_heads(const Stream& stream, const HeadMapArgs& args) {
  const int64_t from = args.x.dim(1), D = args.x.dim(2), to = args.y.dim(1);
  const Tensor table = upload(args.map, args.x.device());
  const int32_t* map = table.data<int32_t>();
  const float* x = args.x.f32();
  float* y = args.y.f32();
  const bool accumulate = args.accumulate;
  for_each(stream, "select_heads", args.y.numel(), [=] __device__(int64_t i) {
    const int64_t t = i / (to * D), h = i / D % to;
    const float value = x[(t * from + map[h]) * D + i % D];
    y[i] = accumulate ? y[i] + value : value;
  });
}

void sum_heads(const Stream& stream, const HeadMapArgs& args) {
  const int64_t from = args.x.dim(1), D = args.x.dim(2), to = args.y.dim(1);
  // by target: first[h] .. first[h + 1] are the places in `sources` of the heads that go to h, in order
  std::vector<int32_t> first(to + 1, 0), sources(args.map.size());
  for (const int h : args.map) ++first[h + 1];
  std::partial_sum(first.begin(), first.end(), first.begin());
  std::vector<int32_t> next(first.begin(), first.end() - 1);
  for (size_t h = 0; h < args.map.size(); ++h) sources[next[args.map[h]]++] = static_cast<int32_t>(h);
  const Tensor firsts = upload(first, args.x.device()), all = upload(sources, args.x.device());
  const int32_t *begin = firsts.data<int32_t>(), *source = all.data<int32_t>();
  const float* x = args.x.f32();
  float* y = args.y.f32();
  const bool accumulate = args.accumulate;
  for_each(stream, "sum_heads", args.y.numel(), [=] __device__(int64_t i) {
    const int64_t t = i / (to * D), h = i / D % to;
    float sum = accumulate ? y[i] : 0.0f;
    for (int32_t s = begin[h]; s < begin[h + 1]; ++s) sum += x[(t * from + source[s]) * D + i % D];
    y[i] = sum;
  });
}

namespace {

void move_runs(const Stream& stream, const RowRunsArgs& args, bool to_packed) {
  const int64_t width = args.tall.dim(0) ? args.tall.numel() / args.tall.dim(0) : 0;
  std::vector<int64_t> rows;  // of tall, for each packed row
  for (const RowRun& run : args.runs)
    for (int64_t t = 0; t < run.count; ++t) rows.push_back(run.begin + t);
  WUNENG_ASSERT(static_cast<int64_t>(rows.size()) == args.packed.dim(0));
  const Tensor table = upload(rows, args.tall.device());
  const int64_t* row = table.data<int64_t>();
  float *tall = args.tall.f32(), *packed = args.packed.f32();
  const bool accumulate = args.accumulate;
  for_each(stream, "move rows", args.packed.numel(), [=] __device__(int64_t i) {
    const int64_t at = row[i / width] * width + i % width;
    float& to = to_packed ? packed[i] : tall[at];
    const float value = to_packed ? tall[at] : packed[i];
    to = accumulate ? to + value : value;
  });
}

}  // namespace

void pack_rows(const Stream& stream, const RowRunsArgs& args) { move_runs(stream, args, true); }
void unpack_rows(const Stream& stream, const RowRunsArgs& args) { move_runs(stream, args, false); }

void concat(const Stream& stream, const ConcatArgs& args) {
  const int64_t A = args.a.dim(-1), B = args.b.dim(-1);
  const float *a = args.a.f32(), *b = args.b.f32();
  float* y = args.y.f32();
  for_each(stream, "concat", args.y.numel(), [=] __device__(int64_t i) {
    const int64_t row = i / (A + B), c = i % (A + B);
    y[i] = c < A ? a[row * A + c] : b[row * B + c - A];
  });
}

void split_add(const Stream& stream, const ConcatArgs& args) {
  const int64_t A = args.a.dim(-1), B = args.b.dim(-1);
  float *a = args.a.f32(), *b = args.b.f32();
  const float* y = args.y.f32();
  for_each(stream, "split_add", args.y.numel(), [=] __device__(int64_t i) {
    const int64_t row = i / (A + B), c = i % (A + B);
    (c < A ? a[row * A + c] : b[row * B + c - A]) += y[i];
  });
}

namespace {

template <class T>
void embed(const Stream& stream, const EmbeddingArgs& args) {
  const int64_t d = args.table.dim(1), rows = args.table.dim(0), begin = args.begin;
  const T* table = args.table.data<T>();
  const int32_t* tokens = args.tokens.data<int32_t>();
  float* y = args.y.f32();
  for_each(stream, "embedding", args.y.numel(), [=] __device__(int64_t i) {
    const int64_t row = tokens[i / d] - begin;
    y[i] = row < 0 || row >= rows ? 0.0f : as_float(table[row * d + i % d]);
  });
}

}  // namespace

void embedding(const Stream& stream, const EmbeddingArgs& args) {
  args.table.dtype() == DType::bf16 ? embed<bf16>(stream, args) : embed<float>(stream, args);
}

void embedding_backward(const Stream& stream, const EmbeddingBackwardArgs& args) {
  const int64_t T = args.tokens.dim(0), d = args.dtable.dim(1), rows = args.dtable.dim(0), begin = args.begin;
  const int32_t* tokens = args.tokens.data<int32_t>();
  const float* dy = args.dy.f32();
  float* dtable = args.dtable.f32();
  // A token's first occurrence adds up all of them, in order: no two threads meet in a row of the table.
  const Tensor links = Tensor::empty({T}, DType::i32, args.dy.device());
  int32_t* next =
      links.data<int32_t>();  // the token's next occurrence, T after the last; ~ of it where not first
  for_each(stream, "embedding occurrences", T, [=] __device__(int64_t t) {
    int64_t after = t + 1;
    while (after < T && tokens[after] != tokens[t]) ++after;
    bool first = true;
    for (int64_t s = 0; s < t && first; ++s) first = tokens[s] != tokens[t];
    next[t] = static_cast<int32_t>(first ? after : ~after);
  });
  for_each(stream, "embedding backward", T * d, [=] __device__(int64_t i) {
    const int64_t t = i / d, c = i % d, row = tokens[t] - begin;
    if (row < 0 || row >= rows || next[t] < 0) return;
    float sum = dy[i];
    for (int64_t s = next[t]; s < T; s = ~next[s]) sum += dy[s * d + c];
    dtable[row * d + c] += sum;
  });
}

}  // namespace wuneng::kernels::cuda
