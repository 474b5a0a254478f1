#include <cstdlib>

#include "cublasLt.h"
#include "runtime/dtype.h"

namespace {

using Matrix = cublasLtMatrixLayoutOpaque_t;

float element(const void* x, cudaDataType_t type, int64_t i) {
  if (type == CUDA_R_32F) return static_cast<const float*>(x)[i];
  return static_cast<float>(static_cast<const wuneng::bf16*>(x)[i]);
}
void assign(void* x, cudaDataType_t type, int64_t i, float value) {
  if (type == CUDA_R_32F)
    static_cast<float*>(x)[i] = value;
  else
    static_cast<wuneng::bf16*>(x)[i] = wuneng::bf16(value);
}

template <class T>
cublasStatus_t take(T& to, const void* value, size_t bytes) {
  if (bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  return std::memcpy(&to, value, bytes), CUBLAS_STATUS_SUCCESS;
}

bool aligned(const void* x, uint32_t to) { return reinterpret_cast<uintptr_t>(x) % to == 0; }

bool same(const Matrix& a, const Matrix& b) {
  return a.type == b.type && a.rows == b.rows && a.columns == b.columns && a.ld == b.ld && a.step == b.step &&
         a.batch == b.batch;
}

// Whether the shapes match, column-major.
bool sound(const cublasLtMatmulDescOpaque_t& what, const Matrix& a, const Matrix& b, const Matrix& c,
           const Matrix& d) {
  const int64_t m = what.transpose_a ? a.columns : a.rows, k = what.transpose_a ? a.rows : a.columns;
  const int64_t n = what.transpose_b ? b.rows : b.columns, k_too = what.transpose_b ? b.columns : b.rows;
  bool fits = m == d.rows && n == d.columns && k == k_too && same(c, d) && a.type == b.type &&
              (d.type == CUDA_R_32F || d.type == a.type);
  for (const Matrix* x : {&a, &b, &d}) fits = fits && x->ld >= x->rows && x->rows > 0 && x->batch == d.batch;
  return fits;
}

int g_fastest = [] {
  const char* const rank = std::getenv("OMPI_COMM_WORLD_LOCAL_RANK");
  return std::getenv("WUNENG_EMULATOR_FASTEST_BY_RANK") && rank ? std::atoi(rank) % emulator::kAlgorithms : 0;
}();

// Algorithm 0 sums in double and rounds once; algorithm i > 0 in i parts of f32.
template <class Term>
double sum_of(int algorithm, int64_t k, const Term& term) {
  double sum = 0;
  if (algorithm == 0) {
    for (int64_t l = 0; l < k; ++l) sum += term(l);
    return sum;
  }
  for (int part = 0; part < algorithm; ++part) {
    float of_part = 0;
    for (int64_t l = part; l < k; l += algorithm) of_part += static_cast<float>(term(l));
    sum += of_part;
  }
  return sum;
}

void product(int algorithm, const cublasLtMatmulDescOpaque_t& what, float alpha, const void* a,
             const Matrix& A, const void* b, const Matrix& B, float beta, const void* c, void* d,
             const Matrix& D, int64_t at) {
  const int64_t k = what.transpose_a ? A.rows : A.columns;
  const auto a_at = [&](int64_t i, int64_t l) {
    return double(element(a, A.type, at * A.step + (what.transpose_a ? l + i * A.ld : i + l * A.ld)));
  };
  const auto b_at = [&](int64_t l, int64_t j) {
    return double(element(b, B.type, at * B.step + (what.transpose_b ? j + l * B.ld : l + j * B.ld)));
  };
  for (int64_t j = 0; j < D.columns; ++j) {
    for (int64_t i = 0; i < D.rows; ++i) {
      double sum = alpha * sum_of(algorithm, k, [&](int64_t l) { return a_at(i, l) * b_at(l, j); });
      const int64_t to = at * D.step + i + j * D.ld;
      if (beta != 0) sum += double(beta) * element(c, D.type, to);
      if (what.epilogue == CUBLASLT_EPILOGUE_BIAS) sum += element(what.bias, D.type, i);
      assign(d, D.type, to, static_cast<float>(sum));
    }
    if (what.epilogue != CUBLASLT_EPILOGUE_BGRADB) continue;
    const double sum = sum_of(algorithm, k, [&](int64_t l) { return b_at(l, j); });
    assign(what.bias, D.type, j, static_cast<float>(sum));
  }
}

}  // namespace

void emulator::set_fastest_algorithm(int number) { g_fastest = number; }

const char* cublasLtGetStatusString(cublasStatus_t s) {
  return s == CUBLAS_STATUS_SUCCESS         ? "success"
         : s == CUBLAS_STATUS_NOT_SUPPORTED ? "not supported"
                                            : "invalid value";
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) { return *handle = nullptr, CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t what, cublasComputeType_t, cudaDataType_t) {
  return *what = {CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, nullptr}, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t what, cublasLtMatmulDescAttributes_t which,
                                              const void* value, size_t bytes) {
  switch (which) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return take(what->transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return take(what->transpose_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return take(what->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return take(what->bias, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t x, cudaDataType_t type, uint64_t rows,
                                        uint64_t columns, int64_t ld) {
  *x = {type, static_cast<int64_t>(rows), static_cast<int64_t>(columns), ld, 0, 1};
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t x,
                                                cublasLtMatrixLayoutAttribute_t which, const void* value,
                                                size_t bytes) {
  return which == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT ? take(x->batch, value, bytes)
                                                     : take(x->step, value, bytes);
}
cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t wish) {
  return *wish = {0, {256, 256, 256, 256}}, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t wish,
                                                    cublasLtMatmulPreferenceAttributes_t which,
                                                    const void* value, size_t bytes) {
  if (which == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) return take(wish->workspace, value, bytes);
  return take(wish->alignments[which - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, bytes);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t what,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t wish, int asked,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
  *found = 0;
  if (asked < 1 || !sound(*what, *a, *b, *c, *d)) return CUBLAS_STATUS_INVALID_VALUE;
  // Not supported in some cases, so that the callers' fallback is tested too.
  if (what->epilogue == CUBLASLT_EPILOGUE_BGRADB && d->columns % 4 != 0) return CUBLAS_STATUS_NOT_SUPPORTED;
  cublasLtMatmulDescOpaque_t without_memory = *what;  // an algorithm is none of a pointer
  without_memory.bias = nullptr;
  for (; *found < std::min(asked, emulator::kAlgorithms); ++*found) {
    std::memset(&results[*found], 0, sizeof results[*found]);  // also between the members
    results[*found] = {{*found, without_memory, {*a, *b, *c, *d}, *wish}, CUBLAS_STATUS_SUCCESS};
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t what, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t A, const void* b, cublasLtMatrixLayout_t B,
                              const void* beta, const void* c, cublasLtMatrixLayout_t C, void* d,
                              cublasLtMatrixLayout_t D, const cublasLtMatmulAlgo_t* algo, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
  const Matrix* const given[4] = {A, B, C, D};
  const void* const memory[4] = {a, b, c, d};
  bool chosen_for_this = sound(*what, *A, *B, *C, *D) && what->epilogue == algo->what.epilogue &&
                         what->transpose_a == algo->what.transpose_a &&
                         what->transpose_b == algo->what.transpose_b && workspace &&
                         workspace_bytes >= algo->promised.workspace;
  for (int i = 0; i < 4; ++i)
    chosen_for_this = chosen_for_this && same(*given[i], algo->layouts[i]) &&
                      aligned(memory[i], algo->promised.alignments[i]);
  if (!chosen_for_this) return CUBLAS_STATUS_INVALID_VALUE;
  const float scale = *static_cast<const float*>(alpha), accumulate = *static_cast<const float*>(beta);
  emulator::spend(stream, algo->number == g_fastest ? 1.0f : 2.0f);
  emulator::as_kernel(stream, [=, what = *what, A = *A, B = *B, D = *D, number = algo->number] {
    for (int i = 0; i < D.batch; ++i) product(number, what, scale, a, A, b, B, accumulate, c, d, D, i);
  });
  return CUBLAS_STATUS_SUCCESS;
}
