#include "model/low_rank.h"

#include <cmath>
#include <optional>

#include "kernels/matmul.h"

extern "C" {
void ssyevd_(const char* jobz, const char* uplo, const int* n, float* a, const int* lda, float* w,
             float* work, const int* lwork, int* iwork, const int* liwork, int* info);
void openblas_set_num_threads(int threads);
}

namespace wuneng {

// By the leading eigenvectors of A A^T.
LowRankFactors factorise(const Tensor& A, int64_t r, const std::string& name) {
  const int n = static_cast<int>(A.dim(0));
  require(r <= n, "{}: rank {} is above its {} rows", name, r, n);
  const Tensor gram = Tensor::empty({n, n});
  kernels::matmul({}, {.a = A, .b = A, .c = gram, .transpose_b = true});
  openblas_set_num_threads(1);  // one order of summation on every machine
  std::vector<float> values(n), work(1);
  std::vector<int> iwork(1);
  int query = -1, info = 0;
  ssyevd_("V", "U", &n, gram.f32(), &n, values.data(), work.data(), &query, iwork.data(), &query, &info);
  work.resize(static_cast<size_t>(work[0]));
  iwork.resize(iwork[0]);
  const int lwork = static_cast<int>(work.size()), liwork = static_cast<int>(iwork.size());
  ssyevd_("V", "U", &n, gram.f32(), &n, values.data(), work.data(), &lwork, iwork.data(), &liwork, &info);
  require(info == 0, "{}: eigenvectors did not converge (LAPACK ssyevd info {})", name, info);
  // LAPACK leaves eigenvectors as columns of a column-major matrix, in ascending order: rows of ours, the
  // leading ones last.
  LowRankFactors out{Tensor::empty({r, A.dim(1)}), Tensor::empty({n, r})};
  const Tensor leading = gram.rows(n - r, n);
  kernels::matmul({}, {.a = leading, .b = A, .c = out.first});
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = 0; k < r; ++k) out.second.f32()[i * r + k] = leading.f32()[k * n + i];
  return out;
}

Var LowRankProjection::operator()(Tape& tape, const Var& x) const {
  return whole ? ops::linear(tape, x, whole) : ops::linear(tape, ops::linear(tape, x, first), second);
}

LowRankProjection LowRankProjection::make(ParameterStore& store, const std::string& name, Shape shape,
                                          int64_t rank, const std::vector<Range>& ranges, int64_t unit,
                                          Target target) {
  const int64_t n = shape[0], d = shape[1];
  const auto by_inputs = [](int64_t inputs) { return normal(1 / std::sqrt(float(inputs))); };
  LowRankProjection p;
  if (!rank) {
    p.whole =
        store.sharded_by(name + ".weight", {n, d}, added(by_inputs(d), from_tensor(target)), 0, ranges, unit);
    return p;
  }
  // Both factors come from one factorisation, which the second drops.
  const auto factors = std::make_shared<std::optional<LowRankFactors>>();
  const auto factor = [=](bool is_first) {
    return from_tensor([=](const SourceRows& source) {
      if (!factors->has_value()) *factors = factorise(target(source), rank, name);
      const Tensor value = is_first ? (*factors)->first : (*factors)->second;
      if (!is_first) factors->reset();
      return value;
    });
  };
  p.first = store.whole(name + ".first.weight", {rank, d}, added(by_inputs(d), factor(true)), true);
  p.second = store.sharded_by(name + ".second.weight", {n, rank}, added(by_inputs(rank), factor(false)), 0,
                              ranges, unit);
  return p;
}

}  // namespace wuneng
