// A block a token: its row of the vocabulary is read once a kernel.
#include "kernels/loss.h"
#include "runtime/cuda/launch.h"

namespace wuneng::kernels::cuda {
namespace {

using namespace wuneng::cuda;

constexpr int kWarps = kBlock / kWarp;

// The block's sum of x, in f64, known to thread 0. `scratch` [kWarps] is shared memory, free when it returns.
__device__ double block_sum(double x, double* scratch) {
  x = warp_sum(x);
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = x;
  __syncthreads();
  double sum = 0;
  for (int i = 0; i < kWarps; ++i) sum += scratch[i];
  __syncthreads();
  return sum;
}

__global__ void logit_max_kernel(Floats logits, int64_t columns, int64_t row, int64_t first, int64_t count,
                                 float inverse, float* maximum) {
  __shared__ float best_of[kWarps];
  const int64_t i = blockIdx.x;
  const Floats x = logits.from((row + i) * columns + first);
  float best = maximum[i];
  for (int64_t c = threadIdx.x; c < count; c += kBlock) best = fmaxf(best, x[c] * inverse);
  best = warp_max(best);
  if (threadIdx.x % kWarp == 0) best_of[threadIdx.x / kWarp] = best;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kWarps; ++w) best = fmaxf(best, best_of[w]);
  maximum[i] = best;
}

__global__ void kl_sums_kernel(const float* student, int64_t V, Floats teacher, int64_t columns, int64_t row,
                               int64_t first, float inverse, const float* student_max,
                               const float* teacher_max, int64_t C, double* sums) {
  __shared__ double scratch[kWarps];
  const int64_t i = blockIdx.x;
  const float *s = student + i * V + first, s_max = student_max[i], t_max = teacher_max[i];
  const Floats t = teacher.from((row + i) * columns);
  double es = 0, et = 0, cross = 0;
  for (int64_t c = threadIdx.x; c < columns; c += kBlock) {
    const float a = s[c] * inverse - s_max, b = t[c] * inverse - t_max, p = expf(b);
    es += expf(a);
    et += p;
    cross += p * (b - a);
  }
  es = block_sum(es, scratch);
  et = block_sum(et, scratch);
  cross = block_sum(cross, scratch);
  if (threadIdx.x != 0) return;
  sums[i] += es;
  sums[C + i] += et;
  sums[2 * C + i] += cross;
}

__global__ void cross_entropy_sums_kernel(const float* logits, int64_t V, const int32_t* labels,
                                          int64_t begin, const float* maximum, int64_t C, double* sums) {
  __shared__ double scratch[kWarps];
  const int64_t i = blockIdx.x;
  const float *x = logits + i * V, best = maximum[i];
  double sum = 0;
  for (int64_t c = threadIdx.x; c < V; c += kBlock) sum += expf(x[c] - best);
  sum = block_sum(sum, scratch);
  if (threadIdx.x != 0) return;
  sums[i] += sum;
  const int64_t label = labels[i] - begin;
  if (labels[i] >= 0 && label >= 0 && label < V) sums[C + i] += x[label] - best;
}

__global__ void kl_gradient_kernel(const float* student, int64_t V, Floats teacher, int64_t columns,
                                   int64_t row, int64_t first, float inverse, const float* student_max,
                                   const float* teacher_max, int64_t C, const double* sums,
                                   const float* scale, Floats gradient) {
  const int64_t i = blockIdx.x;
  if (scale[i] == 0) return;
  const float *s = student + i * V + first, s_max = student_max[i], t_max = teacher_max[i];
  const Floats t = teacher.from((row + i) * columns);
  const Floats g = gradient.from(i * V + first);
  const float s_scale = static_cast<float>(scale[i] / sums[i]),
              t_scale = static_cast<float>(scale[i] / sums[C + i]);
  for (int64_t c = threadIdx.x; c < columns; c += kBlock)
    g.add(c, s_scale * expf(s[c] * inverse - s_max) - t_scale * expf(t[c] * inverse - t_max));
}

__global__ void cross_entropy_gradient_kernel(const float* logits, int64_t V, const int32_t* labels,
                                              int64_t begin, const float* maximum, const double* sums,
                                              const float* scale, Floats gradient) {
  const int64_t i = blockIdx.x, label = labels[i] - begin;
  const float *x = logits + i * V, best = maximum[i], mine = scale[i];
  const float factor = mine == 0 ? 0.0f : static_cast<float>(mine / sums[i]);
  for (int64_t c = threadIdx.x; c < V; c += kBlock)
    gradient.set(i * V + c, mine == 0 ? 0.0f : factor * expf(x[c] - best) - (c == label ? mine : 0.0f));
}

}  // namespace

void logit_max(const Stream& stream, const LogitMaxArgs& args) {
  launch(stream, "logit_max", logit_max_kernel, dim3(args.maximum.dim(0)), dim3(kBlock), 0,
         floats(args.logits), args.logits.dim(1), args.row, args.first, args.count, args.inverse_temperature,
         args.maximum.f32());
}

void kl_sums(const Stream& stream, const KlSumsArgs& args) {
  const TeacherColumns& teacher = args.teacher;
  launch(stream, "kl_sums", kl_sums_kernel, dim3(args.student.dim(0)), dim3(kBlock), 0, args.student.f32(),
         args.student.dim(1), floats(teacher.logits), teacher.logits.dim(1), teacher.row, teacher.first,
         args.inverse_temperature, args.student_max.f32(), args.teacher_max.f32(), args.student.dim(0),
         args.sums.data<double>());
}

void kl_gradient(const Stream& stream, const KlGradientArgs& args) {
  const TeacherColumns& teacher = args.teacher;
  launch(stream, "kl_gradient", kl_gradient_kernel, dim3(args.student.dim(0)), dim3(kBlock), 0,
         args.student.f32(), args.student.dim(1), floats(teacher.logits), teacher.logits.dim(1), teacher.row,
         teacher.first, args.inverse_temperature, args.student_max.f32(), args.teacher_max.f32(),
         args.student.dim(0), args.sums.data<double>(), args.scale.f32(), floats(args.gradient));
}

void cross_entropy_sums(const Stream& stream, const CrossEntropySumsArgs& args) {
  launch(stream, "cross_entropy_sums", cross_entropy_sums_kernel, dim3(args.logits.dim(0)), dim3(kBlock), 0,
         args.logits.f32(), args.logits.dim(1), args.labels.data<int32_t>(), args.begin, args.maximum.f32(),
         args.logits.dim(0), args.sums.data<double>());
}

void cross_entropy_gradient(const Stream& stream, const CrossEntropyGradientArgs& args) {
  launch(stream, "cross_entropy_gradient", cross_entropy_gradient_kernel, dim3(args.logits.dim(0)),
         dim3(kBlock), 0, args.logits.f32(), args.logits.dim(1), args.labels.data<int32_t>(), args.begin,
         args.maximum.f32(), args.sums.data<double>(), args.scale.f32(), floats(args.gradient));
}

}  // namespace wuneng::kernels::cuda
