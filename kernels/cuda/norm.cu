#include "kernels/cuda/common/column_reduce.h"
#include "kernels/cuda/common/row_kernel.h"
#include "kernels/norm.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

struct RmsNorm {
  float eps;
  Operand x, base, sum, y;
  AnyTypeOperand w;

  template <class R>
  __device__ void run(const R& row) const {
    const float squares = row.sum([&](auto i, auto) {
      const auto value = base ? x[i] + base[i] : x[i];
      return value * value;
    });
    if (!row.there) return;
    const float scale = 1.0f / sqrtf(squares / row.D + eps);
    row.each([&](auto i, auto c) {
      const auto value = base ? x[i] + base[i] : x[i];
      if (base) sum.store(i, value);
      y.store(i, value * scale * w[c]);
    });
  }
};

// Without the weight's gradient.
struct RmsNormBackward {
  float eps;
  Operand x, dy;
  AnyTypeOperand w;
  GradientOutput dx;

  template <class R>
  __device__ void run(const R& row) const {
    const float squares = row.sum([&](auto i, auto) { return x[i] * x[i]; }),
                inner = row.sum([&](auto i, auto c) { return dy[i] * w[c] * x[i]; });
    if (!row.there) return;
    const float scale = 1.0f / sqrtf(squares / row.D + eps), back = inner * scale * scale * scale / row.D;
    row.each([&](auto i, auto c) { dx.write(i, dy[i] * w[c] * scale - x[i] * back); });
  }
};

// Both sums over the threads with this threadIdx.y: a part of a warp, or the whole block.
__device__ void sum_over_lanes(float& a, float& b) {
  for (int mask = min(int(blockDim.x), kWarp) / 2; mask > 0; mask /= 2) {
    a += __shfl_xor_sync(~0u, a, mask);
    b += __shfl_xor_sync(~0u, b, mask);
  }
  if (blockDim.x <= kWarp) return;
  __shared__ float of_warp[2][kBlock / kWarp];
  __syncthreads();  // the sums before these have been read
  if (threadIdx.x % kWarp == 0) of_warp[0][threadIdx.x / kWarp] = a, of_warp[1][threadIdx.x / kWarp] = b;
  __syncthreads();
  a = b = 0;
  for (int w = 0; w < kBlock / kWarp; ++w) a += of_warp[0][w], b += of_warp[1][w];
}

// With the weight's gradient. A block has `part` rows t of one head; row t is handled by the threads with one
// threadIdx.y, each of which has the same channels in all rows and sums the weight's gradient of these in
// shared memory: [blockDim.y, vectors of a thread, N, blockDim.x], so that there are no bank conflicts.
struct RmsNormPart {
  RmsNormBackward a;
  int64_t rows, part, H, D;
  float* partial;  // [parts, H D]

  template <class T, int N>
  __device__ void run() const {
    const int64_t h = blockIdx.y, first = blockIdx.x * part, last = min(rows, first + part);
    const int own = static_cast<int>((D + N * blockDim.x - 1) / (N * blockDim.x)),
              held = own * N * blockDim.x;
    float* const sums = shared_memory<float>() + threadIdx.y * held + threadIdx.x;
    for (int i = 0; i < own * N; ++i) sums[i * blockDim.x] = 0;
    const auto each = [&](auto f) {  // f(channel, the place of its sum)
      for (int v = 0; v < own; ++v)
        if (const int64_t c = int64_t{v * blockDim.x + threadIdx.x} * N; c < D) f(c, v * N * blockDim.x);
    };
    for (int64_t from = first; from < last; from += blockDim.y) {
      const bool there = from + threadIdx.y < last;
      const int64_t row = ((there ? from + threadIdx.y : last - 1) * H + h) * D;
      float squares = 0, inner = 0;
      each([&](int64_t c, int) {
        const VectorIndex<T, N> at{row + c}, of_weight{h * D + c};
        const auto x = a.x[at];
        squares += sum_of(x * x);
        inner += sum_of(a.dy[at] * a.w[of_weight] * x);
      });
      sum_over_lanes(squares, inner);
      if (!there) continue;
      const float scale = 1.0f / sqrtf(squares / D + a.eps), back = inner * scale * scale * scale / D;
      each([&](int64_t c, int place) {
        const VectorIndex<T, N> at{row + c}, of_weight{h * D + c};
        const auto x = a.x[at], dy = a.dy[at] * scale;
        if (a.dx) a.dx.write(at, dy * a.w[of_weight] - x * back);
        for (int j = 0; j < N; ++j) sums[place + j * blockDim.x] += dy.x[j] * x.x[j];
      });
    }
    __syncthreads();
    for (int64_t c = threadIdx.y * blockDim.x + threadIdx.x; c < D; c += kBlock) {
      const int64_t vector = c / N,
                    place = (vector / blockDim.x * N + c % N) * blockDim.x + vector % blockDim.x;
      float sum = 0;
      for (unsigned y = 0; y < blockDim.y; ++y) sum += shared_memory<float>()[y * held + place];
      partial[(int64_t{blockIdx.x} * H + h) * D + c] = sum;
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kBlock) rms_norm_part_kernel(bool vectorized, RmsNormPart k) {
  if (vectorized)
    k.run<T, kVectorLength<T>>();
  else
    k.run<T, 1>();
}

struct L2Norm {
  Operand x, y;

  template <class R>
  __device__ void run(const R& row) const {
    const float squares = row.sum([&](auto i, auto) { return x[i] * x[i]; });
    if (!row.there) return;
    const float scale = 1.0f / fmaxf(sqrtf(squares), 1e-12f);
    row.each([&](auto i, auto) { y.store(i, x[i] * scale); });
  }
};

struct L2NormBackward {
  Operand x, dy;
  GradientOutput dx;

  template <class R>
  __device__ void run(const R& row) const {
    const float norm = sqrtf(row.sum([&](auto i, auto) { return x[i] * x[i]; }));
    const float scale = 1.0f / fmaxf(norm, 1e-12f),
                inner = row.sum([&](auto i, auto) { return x[i] * dy[i]; });
    if (!row.there) return;
    const float back =
        norm > 1e-12f ? inner * scale * scale * scale : 0.0f;  // below it, the norm is a constant
    row.each([&](auto i, auto) { dx.write(i, dy[i] * scale - x[i] * back); });
  }
};

struct Center {
  Operand x;
  GradientOutput y;

  template <class R>
  __device__ void run(const R& row) const {
    const float mean = row.sum([&](auto i, auto) { return x[i]; }) / row.D;
    if (row.there) row.each([&](auto i, auto) { y.write(i, x[i] - mean); });
  }
};

}  // namespace

void rms_norm(const Stream& stream, const RmsNormArgs& args) {
  for_each_row(stream, "rms_norm", VectorWidth({args.x, args.base, args.sum, args.y}, {args.weight}), args.x,
               args.weight.numel() / args.x.dim(-1),
               RmsNorm{args.eps, Operand(args.x), Operand(args.base), Operand(args.sum), Operand(args.y),
                       AnyTypeOperand(args.weight)});
}

void rms_norm_backward(const Stream& stream, const RmsNormBackwardArgs& args) {
  const int64_t D = args.x.dim(-1), C = args.weight.numel(), H = C / D, rows = args.x.numel() / C;
  const RmsNormBackward kernel{args.eps, Operand(args.x), Operand(args.dy), AnyTypeOperand(args.weight),
                               GradientOutput(args.dx)};
  const VectorWidth width =
      VectorWidth({args.x, args.dy, args.dx.out, args.dx.base}, {args.weight}).for_units_of(D);
  if (!args.dweight.defined()) return for_each_row(stream, "rms_norm backward", width, args.x, H, kernel);
  if (rows == 0) return;
  const int64_t N = width.vectorized ? width.elements() : 1, vectors = D / N;
  unsigned lanes = 1;
  while (lanes < kWarp && lanes < vectors) lanes *= 2;
  if (vectors > kWarp) lanes = kBlock;
  const unsigned rows_together = kBlock / lanes;
  // Small enough for several blocks a multiprocessor, large enough that their sums are few.
  const int64_t part = std::clamp<int64_t>(rows * H / 1024, 8, 64), parts = blocks_for(rows, part);
  const size_t held = (vectors + lanes - 1) / lanes * lanes * N * sizeof(float);
  const Tensor partial = Tensor::empty({parts, C}, DType::f32, args.x.device());
  launch(stream, "rms_norm backward",
         width.type == DType::bf16 ? rms_norm_part_kernel<bf16> : rms_norm_part_kernel<float>, dim3(parts, H),
         dim3(lanes, rows_together), held * rows_together, width.vectorized,
         RmsNormPart{kernel, rows, part, H, D, partial.f32()});
  add_parts(stream, "rms_norm backward", partial, args.dweight);
}

void l2_norm(const Stream& stream, const L2NormArgs& args) {
  for_each_row(stream, "l2_norm", VectorWidth({args.x, args.y}), args.x, 1,
               L2Norm{Operand(args.x), Operand(args.y)});
}

void l2_norm_backward(const Stream& stream, const L2NormBackwardArgs& args) {
  for_each_row(stream, "l2_norm backward", VectorWidth({args.x, args.dy, args.dx.out, args.dx.base}), args.x,
               1, L2NormBackward{Operand(args.x), Operand(args.dy), GradientOutput(args.dx)});
}

void center(const Stream& stream, const CenterArgs& args) {
  for_each_row(stream, "center", VectorWidth({args.x, args.y.out, args.y.base}), args.x, 1,
               Center{Operand(args.x), GradientOutput(args.y)});
}

}  // namespace wuneng::kernels::cuda
