#include "kernels/rows.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/simd.h"
#include "runtime/threads.h"

namespace wuneng::kernels::cpu {
namespace {

void add(float* y, const float* x, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] += x[i];
}

void move_runs(const RowRunsArgs& args, bool to_packed) {
  const int64_t width = args.tall.dim(0) ? args.tall.numel() / args.tall.dim(0) : 0;
  int64_t at = 0;
  for (const RowRun& run : args.runs) {
    float *tall = args.tall.f32() + run.begin * width, *packed = args.packed.f32() + at * width;
    float* to = to_packed ? packed : tall;
    const float* from = to_packed ? tall : packed;
    if (args.accumulate)
      add(to, from, run.count * width);
    else
      std::memcpy(to, from, run.count * width * sizeof(float));
    at += run.count;
  }
  WUNENG_ASSERT(at == args.packed.dim(0));
}

}  // namespace

void copy_tensors(const Stream&, const CopyTensorsArgs& args) {
  parallel_for(static_cast<int64_t>(args.copies.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto& [from, to] = args.copies[i];
      WUNENG_ASSERT(from.bytes() == to.bytes() && from.dtype() == to.dtype());
      std::memcpy(to.raw(), from.raw(), static_cast<size_t>(from.bytes()));
    }
  });
}

void select_heads(const Stream&, const HeadMapArgs& args) {
  const int64_t T = args.x.dim(0), from = args.x.dim(1), D = args.x.dim(2), to = args.y.dim(1);
  add_to({args.y, args.base}, [&](auto sum) {
    parallel_for(T, 16, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        for (int64_t h = 0; h < to; ++h) {
          const float* x = args.x.f32() + (t * from + args.map[h]) * D;
          const int64_t y = (t * to + h) * D;
#pragma omp simd
          for (int64_t c = 0; c < D; ++c) sum(y + c, x[c]);
        }
    });
  });
}

void sum_heads(const Stream&, const HeadMapArgs& args) {
  const int64_t T = args.x.dim(0), from = args.x.dim(1), D = args.x.dim(2), to = args.y.dim(1);
  float* y = args.y.f32();
  const float* base = args.base.defined() ? args.base.f32() : nullptr;
  parallel_for(T, 16, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * to * D, size = (end - begin) * to * D;
    if (!base)
      std::fill_n(y + first, size, 0.0f);
    else if (base != y)
      std::copy_n(base + first, size, y + first);
    for (int64_t t = begin; t < end; ++t)
      for (int64_t h = 0; h < from; ++h)
        add(y + (t * to + args.map[h]) * D, args.x.f32() + (t * from + h) * D, D);
  });
}

void pack_rows(const Stream&, const RowRunsArgs& args) { move_runs(args, true); }
void unpack_rows(const Stream&, const RowRunsArgs& args) { move_runs(args, false); }

void copy_rows(const Stream&, const CopyRowsArgs& args) {
  const int64_t width = args.to.dim(0) ? args.to.numel() / args.to.dim(0) : 0;
  for (int64_t i = 0; i < args.rows.numel(); ++i)
    if (const int64_t row = args.rows.data<int32_t>()[i]; row >= 0)
      std::memcpy(args.to.f32() + row * width, args.from.f32() + row * width, width * sizeof(float));
}

void concat(const Stream&, const ConcatArgs& args) {
  const int64_t A = args.a.dim(-1), B = args.b.dim(-1), rows = A ? args.a.numel() / A : 0;
  for (int64_t i = 0; i < rows; ++i) {
    std::memcpy(args.y.f32() + i * (A + B), args.a.f32() + i * A, A * sizeof(float));
    std::memcpy(args.y.f32() + i * (A + B) + A, args.b.f32() + i * B, B * sizeof(float));
  }
}

void concat_backward(const Stream&, const ConcatBackwardArgs& args) {
  const int64_t width = args.dy.dim(-1), rows = width ? args.dy.numel() / width : 0;
  const auto give = [&](const Gradient& g, bool first) {
    if (!g.defined()) return;
    const int64_t own = g.out.dim(-1), skipped = first ? 0 : width - own;
    add_to(g, [&](auto sum) {
      for (int64_t i = 0; i < rows; ++i) {
        const float* dy = args.dy.f32() + i * width + skipped;
#pragma omp simd
        for (int64_t c = 0; c < own; ++c) sum(i * own + c, dy[c]);
      }
    });
  };
  give(args.da, true);
  give(args.db, false);
}

void embedding(const Stream&, const EmbeddingArgs& args) {
  const int64_t T = args.tokens.dim(0), d = args.table.dim(1), rows = args.table.dim(0);
  const int32_t* tokens = args.tokens.data<int32_t>();
  for (int64_t t = 0; t < T; ++t) {
    float* y = args.y.f32() + t * d;
    const int64_t row = tokens[t] - args.begin;
    if (row < 0 || row >= rows)
      std::memset(y, 0, d * sizeof(float));
    else if (args.table.dtype() == DType::f32)
      std::memcpy(y, args.table.f32() + row * d, d * sizeof(float));
    else if (args.table.dtype() == DType::i8)
      for (int64_t c = 0; c < d; ++c)
        y[c] = args.scale.f32()[row] * static_cast<float>(args.table.data<int8_t>()[row * d + c]);
    else if (args.table.dtype() == DType::f16)
      for (int64_t c = 0; c < d; ++c) y[c] = static_cast<float>(args.table.data<f16>()[row * d + c]);
    else
      for (int64_t c = 0; c < d; ++c) y[c] = static_cast<float>(args.table.data<bf16>()[row * d + c]);
  }
}

void embedding_backward(const Stream&, const EmbeddingBackwardArgs& args) {
  const int64_t T = args.tokens.dim(0), d = args.dtable.dim(1), rows = args.dtable.dim(0);
  const int32_t* tokens = args.tokens.data<int32_t>();
  parallel_for(d, 64,
               [&](int64_t begin, int64_t end) {  // split over columns: one thread sums all rows of a token
                 for (int64_t t = 0; t < T; ++t) {
                   const int64_t row = tokens[t] - args.begin;
                   if (row >= 0 && row < rows)
                     add(args.dtable.f32() + row * d + begin, args.dy.f32() + t * d + begin, end - begin);
                 }
               });
}

}  // namespace wuneng::kernels::cpu
