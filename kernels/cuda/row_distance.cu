// A warp per row; then one block sums the rows' distances in a fixed order.
#include "kernels/row_distance.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

struct Rows {
  FloatPointer student, teacher, gradient;  // gradient: null where it is not computed
  const int32_t* labels;
  int64_t count, d;
  float scale, root;  // root: of d
  double* distances;  // [count]
};

__global__ void __launch_bounds__(kBlock) row_distance_kernel(Rows rows) {
  const int64_t i = int64_t{blockIdx.x} * (kBlock / kWarp) + threadIdx.x / kWarp;
  if (i >= rows.count) return;  // a whole warp
  const int lane = threadIdx.x % kWarp;
  const FloatPointer s = rows.student.from(i * rows.d), t = rows.teacher.from(i * rows.d);
  const bool labelled = rows.labels[i] >= 0;
  float squares = 0;
  if (labelled)
    for (int64_t c = lane; c < rows.d; c += kWarp) squares += (s[c] - t[c]) * (s[c] - t[c]);
  const float norm = sqrtf(warp_sum(squares));
  if (lane == 0) rows.distances[i] = double(norm) / rows.root;
  if (!rows.gradient) return;
  const float factor = norm == 0 ? 0.0f : rows.scale / (norm * rows.root);  // NaN goes on
  const FloatPointer g = rows.gradient.from(i * rows.d);
  for (int64_t c = lane; c < rows.d; c += kWarp) g.store(c, norm == 0 ? 0.0f : factor * (s[c] - t[c]));
}

// The sum of x over the block, in thread 0.
__device__ double block_sum(double x) {
  __shared__ double of_warp[kBlock / kWarp];
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = x;
  __syncthreads();
  double sum = 0;
  for (int w = 0; w < kBlock / kWarp; ++w) sum += of_warp[w];
  return sum;
}

__global__ void __launch_bounds__(kBlock)
    row_distance_total_kernel(Rows rows, double* total, double* tokens) {
  double sum = 0, count = 0;
  for (int64_t i = threadIdx.x; i < rows.count; i += kBlock) {
    sum += rows.distances[i];
    count += rows.labels[i] >= 0;
  }
  sum = block_sum(sum), count = block_sum(count);
  if (threadIdx.x != 0) return;
  *total += sum;
  if (tokens) *tokens += count;
}

}  // namespace

void row_distance(const Stream& stream, const RowDistanceArgs& args) {
  const int64_t T = args.student.dim(0), d = args.student.dim(1);
  const Tensor distances = Tensor::empty({T}, DType::f64, stream.device);
  const Rows rows{float_pointer(args.student),
                  float_pointer(args.teacher),
                  float_pointer(args.gradient),
                  args.labels.data<int32_t>(),
                  T,
                  d,
                  args.scale,
                  std::sqrt(static_cast<float>(d)),
                  distances.data<double>()};
  launch(stream, "row_distance", row_distance_kernel, dim3(blocks_for(T, kBlock / kWarp)), dim3(kBlock), 0,
         rows);
  launch(stream, "row_distance_total", row_distance_total_kernel, dim3(1), dim3(kBlock), 0, rows,
         args.total.data<double>(), args.tokens.defined() ? args.tokens.data<double>() : nullptr);
}

}  // namespace wuneng::kernels::cuda
