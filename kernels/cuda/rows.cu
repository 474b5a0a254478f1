#include <algorithm>
#include <numeric>

#include "kernels/cuda/common/upload.h"
#include "kernels/rows.h"
#include "runtime/cuda/elements.h"

namespace wuneng::kernels::cuda {

using namespace wuneng::cuda;

void select_heads(const Stream& stream, const HeadMapArgs& args) {
  const int64_t from = args.x.dim(1), D = args.x.dim(2), to = args.y.dim(1);
  const Tensor table = upload(args.map, args.x.device());
  const int32_t* map = table.data<int32_t>();
  const Operand x(args.x);
  const GradientOutput y({args.y, args.base});
  for_each_in_rows(stream, "select_heads", VectorWidth({args.x, args.y, args.base}), args.y.dim(0), to * D, D,
                   [=] __device__(int64_t t, auto c) {
                     const int64_t h = c.first / D;
                     y.write(t * to * D + c, x[(t * from + map[h] - h) * D + c]);
                   });
}

void sum_heads(const Stream& stream, const HeadMapArgs& args) {
  const int64_t from = args.x.dim(1), D = args.x.dim(2), to = args.y.dim(1);
  // CSR by target head: sources[first[h] .. first[h + 1]) are the heads that are summed into h, in order
  std::vector<int32_t> first(to + 1, 0), sources(args.map.size());
  for (const int h : args.map) ++first[h + 1];
  std::partial_sum(first.begin(), first.end(), first.begin());
  std::vector<int32_t> next(first.begin(), first.end() - 1);
  for (size_t h = 0; h < args.map.size(); ++h) sources[next[args.map[h]]++] = static_cast<int32_t>(h);
  const Tensor firsts = upload(first, args.x.device()), all = upload(sources, args.x.device());
  const int32_t *begin = firsts.data<int32_t>(), *source = all.data<int32_t>();
  const Operand x(args.x), base(args.base), y(args.y);
  for_each_in_rows(stream, "sum_heads", VectorWidth({args.x, args.y, args.base}), args.y.dim(0), to * D, D,
                   [=] __device__(int64_t t, auto c) {
                     const auto i = t * to * D + c;
                     const int64_t h = c.first / D;
                     decltype(base[i]) sum;
                     if (base) sum = base[i];
                     for (int32_t s = begin[h]; s < begin[h + 1]; ++s)
                       sum = sum + x[(t * from + source[s] - h) * D + c];
                     y.store(i, sum);
                   });
}

namespace {

struct Piece {
  const char* from;
  char* to;
  int64_t bytes, in_words;  // in_words: both begin at multiples of 16
};

// blockIdx.y: the piece.
__global__ void __launch_bounds__(kBlock) copy_tensors_kernel(const Piece* pieces) {
  const Piece p = pieces[blockIdx.y];
  const int64_t words = p.in_words ? p.bytes / 16 : 0, first = int64_t{blockIdx.x} * kBlock + threadIdx.x,
                step = int64_t{gridDim.x} * kBlock;
  for (int64_t i = first; i < words; i += step)
    store_word(reinterpret_cast<uint4*>(p.to)[i], reinterpret_cast<const uint4*>(p.from)[i]);
  for (int64_t i = 16 * words + 2 * first; i < p.bytes; i += 2 * step)  // elements have 2 bytes or more
    *reinterpret_cast<uint16_t*>(p.to + i) = *reinterpret_cast<const uint16_t*>(p.from + i);
}

}  // namespace

void copy_tensors(const Stream& stream, const CopyTensorsArgs& args) {
  std::vector<Piece> pieces;
  int64_t most = 0;
  for (const auto& [from, to] : args.copies) {
    WUNENG_ASSERT(from.bytes() == to.bytes() && from.dtype() == to.dtype() && from.bytes() % 2 == 0);
    const auto *a = static_cast<const char*>(from.raw()), *b = static_cast<const char*>(to.raw());
    pieces.push_back({a, static_cast<char*>(to.raw()), from.bytes(), is_aligned<16>(a) && is_aligned<16>(b)});
    most = std::max(most, from.bytes());
  }
  if (most == 0) return;
  const Tensor table =
      upload(pieces.data(), static_cast<int64_t>(pieces.size() * sizeof(Piece)), DType::u8, stream.device);
  launch(stream, "copy_tensors", copy_tensors_kernel,
         dim3(std::min(blocks_for(most / 16 + 1, kBlock), 1024u), static_cast<unsigned>(pieces.size())),
         dim3(kBlock), 0, static_cast<const Piece*>(table.raw()));
}

namespace {

void move_runs(const Stream& stream, const RowRunsArgs& args, bool to_packed) {
  const int64_t width = args.tall.dim(0) ? args.tall.numel() / args.tall.dim(0) : 0;
  std::vector<int32_t> rows;  // of tall, for each packed row
  for (const RowRun& run : args.runs)
    for (int64_t t = 0; t < run.count; ++t) rows.push_back(static_cast<int32_t>(run.begin + t));
  WUNENG_ASSERT(static_cast<int64_t>(rows.size()) == args.packed.dim(0) && args.tall.dim(0) <= INT32_MAX);
  WUNENG_ASSERT(!args.rows.defined() || args.rows.numel() == args.packed.dim(0));
  const Tensor table = args.rows.defined() ? args.rows : upload(rows, args.tall.device());
  const int32_t* row = table.data<int32_t>();
  const Operand from(to_packed ? args.tall : args.packed), to(to_packed ? args.packed : args.tall);
  const bool accumulate = args.accumulate;
  for_each_in_rows(stream, "move rows", VectorWidth({args.tall, args.packed}), args.packed.dim(0), width,
                   width, [=] __device__(int64_t t, auto c) {
                     const auto i = t * width + c, tall = int64_t{row[t]} * width + c,
                                source = to_packed ? tall : i, target = to_packed ? i : tall;
                     to.store(target, accumulate ? to[target] + from[source] : from[source]);
                   });
}

}  // namespace

void pack_rows(const Stream& stream, const RowRunsArgs& args) { move_runs(stream, args, true); }
void unpack_rows(const Stream& stream, const RowRunsArgs& args) { move_runs(stream, args, false); }

void copy_rows(const Stream& stream, const CopyRowsArgs& args) {
  const int64_t width = args.to.dim(0) ? args.to.numel() / args.to.dim(0) : 0;
  const int32_t* rows = args.rows.data<int32_t>();
  const Operand from(args.from), to(args.to);
  for_each_in_rows(stream, "copy_rows", VectorWidth({args.from, args.to}), args.rows.numel(), width, width,
                   [=] __device__(int64_t i, auto c) {
                     if (rows[i] < 0) return;
                     const auto at = int64_t{rows[i]} * width + c;
                     to.store(at, from[at]);
                   });
}

void concat(const Stream& stream, const ConcatArgs& args) {
  const int64_t A = args.a.dim(-1), B = args.b.dim(-1);
  const Operand a(args.a), b(args.b), y(args.y);
  for_each_in_rows(stream, "concat", VectorWidth({args.a, args.b, args.y}), args.y.numel() / (A + B), A + B,
                   std::gcd(A, B), [=] __device__(int64_t row, auto c) {
                     y.store(row * (A + B) + c, c.first < A ? a[row * A + c] : b[row * B - A + c]);
                   });
}

void concat_backward(const Stream& stream, const ConcatBackwardArgs& args) {
  const int64_t both = args.dy.dim(-1),
                A = args.da.defined() ? args.da.out.dim(-1) : both - args.db.out.dim(-1), B = both - A;
  const GradientOutput da(args.da), db(args.db);
  const Operand dy(args.dy);
  for_each_in_rows(stream, "concat backward",
                   VectorWidth({args.dy, args.da.out, args.da.base, args.db.out, args.db.base}),
                   args.dy.numel() / both, both, std::gcd(A, B), [=] __device__(int64_t row, auto c) {
                     const auto value = dy[row * both + c];
                     if (c.first < A && da) da.write(row * A + c, value);
                     if (c.first >= A && db) db.write(row * B - A + c, value);
                   });
}

namespace {

template <class S, class T, int N>
__device__ FloatVector<N> elements(const S* x, VectorIndex<T, N> at) {
  return load<N>(x + at.first);
}

template <class S>
void look_up(const Stream& stream, const EmbeddingArgs& args) {
  const int64_t d = args.table.dim(1), rows = args.table.dim(0), begin = args.begin;
  const int32_t* tokens = args.tokens.data<int32_t>();
  const S* table = args.table.data<S>();
  const float* scale = f32_or_null(args.scale);
  const Operand y(args.y);
  for_each_in_rows(stream, "embedding", VectorWidth({args.y}, {args.table}), args.y.dim(0), d, d,
                   [=] __device__(int64_t t, auto c) {
                     const int64_t row = tokens[t] - begin;
                     decltype(elements(table, c)) value;
                     if (row >= 0 && row < rows) value = elements(table, row * d + c);
                     if (row >= 0 && row < rows && scale) value = value * scale[row];
                     y.store(t * d + c, value);
                   });
}

}  // namespace

void embedding(const Stream& stream, const EmbeddingArgs& args) {
  WUNENG_ASSERT(args.scale.defined() == (args.table.dtype() == DType::i8));
  switch (args.table.dtype()) {
    case DType::f32:
      return look_up<float>(stream, args);
    case DType::bf16:
      return look_up<bf16>(stream, args);
    case DType::f16:
      return look_up<f16>(stream, args);
    case DType::i8:
      return look_up<int8_t>(stream, args);
    default:
      fail("embedding: a table of {}: expected f32, bf16, f16 or i8", to_string(args.table.dtype()));
  }
}

void embedding_backward(const Stream& stream, const EmbeddingBackwardArgs& args) {
  const int64_t T = args.tokens.dim(0), d = args.dtable.dim(1), rows = args.dtable.dim(0);
  // CSR by row of the table: the positions of each token that occurs, in order. One thread sums each element
  // of the gradient, so the order of summation is fixed.
  const int32_t* tokens = args.tokens.data<int32_t>();
  std::vector<std::pair<int32_t, int32_t>> occurrences;
  for (int64_t t = 0; t < T; ++t)
    if (const int64_t row = tokens[t] - args.begin; row >= 0 && row < rows)
      occurrences.emplace_back(static_cast<int32_t>(row), static_cast<int32_t>(t));
  std::sort(occurrences.begin(), occurrences.end());
  std::vector<int32_t> row_of, first, places;
  for (const auto& [row, t] : occurrences) {
    if (row_of.empty() || row_of.back() != row) {
      row_of.push_back(row);
      first.push_back(static_cast<int32_t>(places.size()));
    }
    places.push_back(t);
  }
  first.push_back(static_cast<int32_t>(places.size()));
  const Device device = args.dy.device();
  const Tensor rows_there = upload(row_of, device), firsts = upload(first, device),
               all = upload(places, device);
  const int32_t *row = rows_there.data<int32_t>(), *begin = firsts.data<int32_t>(),
                *place = all.data<int32_t>();
  const Operand dy(args.dy);
  const AnyTypeOperand dtable(args.dtable);
  for_each_in_rows(stream, "embedding backward", VectorWidth({args.dy}, {args.dtable}),
                   static_cast<int64_t>(row_of.size()), d, d, [=] __device__(int64_t n, auto c) {
                     const auto i = row[n] * d + c;
                     auto sum = dtable[i];
                     for (int32_t p = begin[n]; p < begin[n + 1]; ++p) sum = sum + dy[place[p] * d + c];
                     dtable.store(i, sum);
                   });
}

}  // namespace wuneng::kernels::cuda
