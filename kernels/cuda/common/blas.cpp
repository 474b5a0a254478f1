#include "kernels/cuda/common/blas.h"

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <mutex>

#include "runtime/error.h"

namespace wuneng::kernels::cuda {
namespace {

constexpr int64_t kWorkspace = 32 << 20;  // bytes, cuBLAS's recommendation for Hopper

void check(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS) fail("{}: {}", call, cublasLtGetStatusString(status));
}

cudaDataType_t kind_of(DType type) { return type == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

// The largest power of two that divides the address, at most 256.
uint32_t alignment_of(const void* p) {
  return uint32_t{1} << std::min(8, std::countr_zero(reinterpret_cast<uintptr_t>(p)));
}

cublasLtMatrixLayoutOpaque_t layout(DType type, int64_t rows, int64_t columns, int64_t ld, int64_t step,
                                    int64_t batch) {
  cublasLtMatrixLayoutOpaque_t it;
  check(cublasLtMatrixLayoutInit(&it, kind_of(type), rows, columns, ld), "cublasLtMatrixLayoutInit");
  const auto set = [&](cublasLtMatrixLayoutAttribute_t what, auto value) {
    check(cublasLtMatrixLayoutSetAttribute(&it, what, &value, sizeof value),
          "cublasLtMatrixLayoutSetAttribute");
  };
  set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<int32_t>(batch));
  set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, step);
  return it;
}

// A product in cublasLt's terms. cublasLt is column-major and sees every matrix transposed, so it computes
// out^T = op(b)^T op(a)^T: its first operand is our second.
struct Call {
  const Product& p;
  const void* from;
  cublasLtMatmulDescOpaque_t what;
  cublasLtMatrixLayoutOpaque_t a, b, out;

  explicit Call(const Product& p)
      : p(p),
        from(p.from ? p.from : p.out.raw()),
        a(factor(p.a, p.m, p.k)),
        b(factor(p.b, p.k, p.n)),
        out(layout(p.out.dtype(), p.n, p.m, p.ld, p.step, p.batch)) {
    check(cublasLtMatmulDescInit(&what, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescInit");
    const auto op = [](const Factor& x) {
      return static_cast<int32_t>(x.transpose ? CUBLAS_OP_T : CUBLAS_OP_N);
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, op(p.b));
    set(CUBLASLT_MATMUL_DESC_TRANSB, op(p.a));
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(epilogue()));
    if (const void* vector = p.bias ? p.bias : p.sums) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, vector);
  }

  cublasLtMatrixLayoutOpaque_t factor(const Factor& x, int64_t rows, int64_t columns) const {
    return layout(p.type, x.transpose ? rows : columns, x.transpose ? columns : rows, x.ld, x.step, p.batch);
  }
  cublasLtEpilogue_t epilogue() const {
    return p.bias ? CUBLASLT_EPILOGUE_BIAS : p.sums ? CUBLASLT_EPILOGUE_BGRADB : CUBLASLT_EPILOGUE_DEFAULT;
  }
  template <class T>
  void set(cublasLtMatmulDescAttributes_t which, T value) {
    check(cublasLtMatmulDescSetAttribute(&what, which, &value, sizeof value),
          "cublasLtMatmulDescSetAttribute");
  }

  // Everything that the choice of an algorithm may depend on.
  using Key = std::array<int64_t, 22>;
  Key key() const {
    return {static_cast<int64_t>(p.type),
            static_cast<int64_t>(p.out.dtype()),
            p.m,
            p.n,
            p.k,
            p.batch,
            p.a.ld,
            p.a.step,
            p.a.transpose,
            p.b.ld,
            p.b.step,
            p.b.transpose,
            p.ld,
            p.step,
            static_cast<int64_t>(epilogue()),
            p.accumulate != 0,
            from == p.out.raw(),
            alignment_of(p.a.data),
            alignment_of(p.b.data),
            alignment_of(from),
            alignment_of(p.out.raw()),
            alignment_of(p.bias ? p.bias : p.sums)};
  }
};

// Per stream, because products in two streams may run at the same time and need a workspace each.
struct Context {
  cublasLtHandle_t handle = nullptr;
  Tensor workspace;
  struct Choice {
    bool found;
    cublasLtMatmulAlgo_t algorithm;
  };
  std::map<Call::Key, Choice> choices;

  explicit Context(Device device) : workspace(Tensor::empty({kWorkspace}, DType::u8, device)) {
    check(cublasLtCreate(&handle), "cublasLtCreate");
  }

  const Choice& choice_for(Call& call) {
    const auto [at, fresh] = choices.try_emplace(call.key());
    if (fresh) at->second = choose(call);
    return at->second;
  }

  Choice choose(Call& call) const {
    cublasLtMatmulPreferenceOpaque_t wish;
    check(cublasLtMatmulPreferenceInit(&wish), "cublasLtMatmulPreferenceInit");
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t which, auto value) {
      check(cublasLtMatmulPreferenceSetAttribute(&wish, which, &value, sizeof value),
            "cublasLtMatmulPreferenceSetAttribute");
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kWorkspace));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(call.p.b.data));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(call.p.a.data));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(call.from));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(call.p.out.raw()));
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle, &call.what, &call.b, &call.a, &call.out, &call.out, &wish, 1, &best, &found);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return {false, {}};
    check(status, "cublasLtMatmulAlgoGetHeuristic");
    return {found > 0, best.algo};
  }
};

Context& context_for(const Stream& stream) {
  static auto* const contexts =
      new std::map<void*, Context>;  // never destroyed: neither is the owner of its memory
  return contexts->try_emplace(stream.handle, stream.device).first->second;
}

}  // namespace

bool multiply(const Stream& stream, const Product& p) {
  static std::mutex mutex;
  if (p.m == 0 || p.n == 0 || p.batch == 0) return true;
  Call call(p);
  const std::lock_guard lock(mutex);
  Context& context = context_for(stream);
  const Context::Choice& choice = context.choice_for(call);
  if (!choice.found && p.sums) return false;
  if (!choice.found)
    fail("cublasLt has no algorithm for [{}, {}] times [{}, {}] in {}, batch {}", p.m, p.k, p.k, p.n,
         to_string(p.type), p.batch);
  check(cublasLtMatmul(context.handle, &call.what, &p.scale, p.b.data, &call.b, p.a.data, &call.a,
                       &p.accumulate, call.from, &call.out, p.out.raw(), &call.out, &choice.algorithm,
                       context.workspace.raw(), kWorkspace, static_cast<cudaStream_t>(stream.handle)),
        "cublasLtMatmul");
  return true;
}

}  // namespace wuneng::kernels::cuda
