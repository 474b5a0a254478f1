#include "kernels/cuda/common/blas.h"

#include <algorithm>
#include <bit>

#include "kernels/cuda/common/blas_call.h"
#include "runtime/error.h"

namespace wuneng::kernels::cuda {
namespace {

cudaDataType_t kind_of(DType type) { return type == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

cublasLtMatrixLayoutOpaque_t layout(DType type, int64_t rows, int64_t columns, int64_t ld, int64_t step,
                                    int64_t batch) {
  cublasLtMatrixLayoutOpaque_t it;
  check_blas(cublasLtMatrixLayoutInit(&it, kind_of(type), rows, columns, ld), "cublasLtMatrixLayoutInit");
  const auto set = [&](cublasLtMatrixLayoutAttribute_t what, auto value) {
    check_blas(cublasLtMatrixLayoutSetAttribute(&it, what, &value, sizeof value),
               "cublasLtMatrixLayoutSetAttribute");
  };
  set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<int32_t>(batch));
  set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, step);
  return it;
}

cublasLtMatrixLayoutOpaque_t factor(const Product& p, const Factor& x, int64_t rows, int64_t columns) {
  return layout(p.type, x.transpose ? rows : columns, x.transpose ? columns : rows, x.ld, x.step, p.batch);
}

}  // namespace

void check_blas(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS) fail("{}: {}", call, cublasLtGetStatusString(status));
}

uint32_t alignment_of(const void* p) {
  return uint32_t{1} << std::min(8, std::countr_zero(reinterpret_cast<uintptr_t>(p)));
}

BlasCall::BlasCall(const Product& p)
    : p(p),
      from(p.from ? p.from : p.out.raw()),
      a(factor(p, p.a, p.m, p.k)),
      b(factor(p, p.b, p.k, p.n)),
      out(layout(p.out.dtype(), p.n, p.m, p.ld, p.step, p.batch)) {
  check_blas(cublasLtMatmulDescInit(&what, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescInit");
  const auto set = [&](cublasLtMatmulDescAttributes_t which, auto value) {
    check_blas(cublasLtMatmulDescSetAttribute(&what, which, &value, sizeof value),
               "cublasLtMatmulDescSetAttribute");
  };
  const auto op = [](const Factor& x) {
    return static_cast<int32_t>(x.transpose ? CUBLAS_OP_T : CUBLAS_OP_N);
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, op(p.b));
  set(CUBLASLT_MATMUL_DESC_TRANSB, op(p.a));
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(epilogue()));
  if (const void* vector = p.bias ? p.bias : p.sums) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, vector);
}

cublasLtEpilogue_t BlasCall::epilogue() const {
  return p.bias ? CUBLASLT_EPILOGUE_BIAS : p.sums ? CUBLASLT_EPILOGUE_BGRADB : CUBLASLT_EPILOGUE_DEFAULT;
}

ProductKey BlasCall::key() const {
  return {.type = static_cast<int64_t>(p.type),
          .out_type = static_cast<int64_t>(p.out.dtype()),
          .m = p.m,
          .n = p.n,
          .k = p.k,
          .batch = p.batch,
          .a_ld = p.a.ld,
          .a_step = p.a.step,
          .a_transpose = p.a.transpose,
          .b_ld = p.b.ld,
          .b_step = p.b.step,
          .b_transpose = p.b.transpose,
          .ld = p.ld,
          .step = p.step,
          .epilogue = static_cast<int64_t>(epilogue()),
          .accumulates = p.accumulate != 0,
          .in_place = from == p.out.raw(),
          .align_a = alignment_of(p.a.data),
          .align_b = alignment_of(p.b.data),
          .align_from = alignment_of(from),
          .align_out = alignment_of(p.out.raw()),
          .align_vector = alignment_of(p.bias ? p.bias : p.sums)};
}

std::vector<cublasLtMatmulAlgo_t> BlasCall::candidates(cublasLtHandle_t handle, int most) {
  cublasLtMatmulPreferenceOpaque_t wish;
  check_blas(cublasLtMatmulPreferenceInit(&wish), "cublasLtMatmulPreferenceInit");
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t which, auto value) {
    check_blas(cublasLtMatmulPreferenceSetAttribute(&wish, which, &value, sizeof value),
               "cublasLtMatmulPreferenceSetAttribute");
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kBlasWorkspace));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.b.data));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.a.data));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(from));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(p.out.raw()));
  std::vector<cublasLtMatmulHeuristicResult_t> results(most);
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle, &what, &b, &a, &out, &out, &wish, most, results.data(), &found);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED) return {};
  check_blas(status, "cublasLtMatmulAlgoGetHeuristic");
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; i < found; ++i)
    if (results[i].state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(results[i].algo);
  return algorithms;
}

cublasStatus_t BlasCall::run(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& algorithm,
                             const Tensor& workspace, cudaStream_t stream) {
  return cublasLtMatmul(handle, &what, &p.scale, p.b.data, &b, p.a.data, &a, &p.accumulate, from, &out,
                        p.out.raw(), &out, &algorithm, workspace.raw(), workspace.bytes(), stream);
}

BlasContext::BlasContext(Device device) : workspace(Tensor::empty({kBlasWorkspace}, DType::u8, device)) {
  check_blas(cublasLtCreate(&handle), "cublasLtCreate");
}

BlasContext& BlasContext::of(const Stream& stream) {
  static auto* const contexts =
      new std::map<void*, BlasContext>;  // never destroyed: neither is the owner of its memory
  return contexts->try_emplace(stream.handle, stream.device).first->second;
}

std::mutex& BlasContext::mutex() {
  static std::mutex one;
  return one;
}

bool multiply(const Stream& stream, const Product& p) {
  if (p.m == 0 || p.n == 0 || p.batch == 0) return true;
  BlasCall call(p);
  const std::lock_guard lock(BlasContext::mutex());
  BlasContext& context = BlasContext::of(stream);
  const auto [at, fresh] = context.choices.try_emplace(call.key());
  BlasContext::Choice& choice = at->second;
  if (fresh)
    if (const auto found = call.candidates(context.handle, 1); !found.empty())
      choice = {.found = true, .algorithm = found.front()};
  if (!choice.found && p.sums) return false;
  if (!choice.found)
    fail("cublasLt has no algorithm for [{}, {}] times [{}, {}] in {}, batch {}", p.m, p.k, p.k, p.n,
         to_string(p.type), p.batch);
  check_blas(
      call.run(context.handle, choice.algorithm, context.workspace, static_cast<cudaStream_t>(stream.handle)),
      "cublasLtMatmul");
  return true;
}

}  // namespace wuneng::kernels::cuda
