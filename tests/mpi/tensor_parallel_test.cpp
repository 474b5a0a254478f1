// Products cut over tensor-parallel ranks, on the CPU and on a GPU: the whole layer's values and gradients on
// every rank, sums beside computation or not.
#include "parallel/tensor_parallel.h"

#include <gtest/gtest.h>

#include "model/operators.h"
#include "parallel/sequence_parallel.h"
#include "tests/mpi/gpus.h"
#include "tests/mpi/pseudo.h"

namespace wuneng {
namespace {

constexpr int64_t kInner = 13, kWide = 5;  // cut over the ranks; and not

struct Case {
  Device device;
  bool overlap = true;
  DType type = DType::f32;
  bool sequence = false;  // each rank has a share of the rows of x and y
};

// Of columns [begin, end) of a logical weight [O, I] (dim 1), or rows (dim 0).
Parameter weight_shard(const Tensor& whole, int dim, Range held, const Case& c) {
  Parameter p;
  p.name = "weight";
  p.global_shape = whole.shape();
  p.shard_dim = dim;
  p.held = p.owned = held;
  const Tensor mine = Tensor::empty(p.local_shape());
  for (int64_t r = 0; r < mine.dim(0); ++r)
    for (int64_t i = 0; i < mine.dim(1); ++i)
      mine.f32()[r * mine.dim(1) + i] =
          whole.f32()[(r + (dim == 0 ? held.begin : 0)) * whole.dim(1) + i + (dim == 1 ? held.begin : 0)];
  p.var = Var(mine.to(c.type).to(c.device), true, DType::f32);
  return p;
}

// a b, or a^T b, in double.
std::vector<double> product(const std::vector<double>& a, const std::vector<double>& b, int64_t rows,
                            int64_t inner, int64_t columns, bool transpose_a, bool transpose_b) {
  std::vector<double> out(rows * columns);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < inner; ++i)
      for (int64_t c = 0; c < columns; ++c)
        out[r * columns + c] +=
            a[transpose_a ? i * rows + r : r * inner + i] * b[transpose_b ? c * inner + i : i * columns + c];
  return out;
}

std::vector<double> doubles(const Tensor& t) {
  const Tensor host = t.to(Device{}).to(DType::f32);
  return {host.f32(), host.f32() + host.numel()};
}

class TensorParallelMpi : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (GetParam().device.kind == DeviceKind::cuda && cuda_device_count() == 0) GTEST_SKIP() << "no GPU here";
    tp_ = Comm::world().split(0, Comm::world().rank(), "tp");
    tp_.connect(device(), GetParam().overlap);
  }
  static Device device() { return of_this_rank(GetParam().device); }
  Range mine() const { return shard_range(kInner, tp_.size(), tp_.rank()); }
  Tensor here(const Tensor& t) const { return t.to(GetParam().type).to(device()); }
  // This rank's rows of t [T, d], with padding, and all rows of such shares.
  Tensor share(const Tensor& t) const {
    const int64_t R = rows_of_share(t.dim(0), tp_.size());
    const Tensor padded = padded_rows(tp_, t.dim(0), t.dim(1), t.dtype(), t.device());
    padded.rows(0, t.dim(0)).copy_from(t);
    return padded.rows(tp_.rank() * R, (tp_.rank() + 1) * R);
  }
  std::vector<double> whole(const Tensor& t, int64_t T) const {
    return doubles(GetParam().sequence ? all_gather_rows(tp_, t, T, "rows") : t);
  }
  Comm tp_;
};

// y = W2 W1 x + W3 W1 x with W1 cut by rows, W2 and W3 by columns: one sum forwards, one backwards. Rows
// enough for one part, for two, and for all parts with a remainder.
TEST_P(TensorParallelMpi, ALayerIsTheWholeLayerOnEveryRank) {
  Case c = GetParam();
  c.device = device();
  const double near = c.type == DType::f32 ? 1e-5 : 0.06;
  for (const int64_t T : {7, 2050, 4099}) {
    const Tensor w1 = pseudo_tensor({kInner, kWide}, 1), w2 = pseudo_tensor({kWide, kInner}, 2),
                 w3 = pseudo_tensor({kWide, kInner}, 3), dy = pseudo_tensor({T, kWide}, 4);
    const Parameter first = weight_shard(w1, 0, mine(), c), second = weight_shard(w2, 1, mine(), c),
                    third = weight_shard(w3, 1, mine(), c);
    const Tensor whole_x = here(pseudo_tensor({T, kWide}, 5));
    const Var x(c.sequence ? share(whole_x) : whole_x, true);
    Tape tape(compute_stream(c.device));
    const Var read = c.sequence ? gather_rows(tape, tp_, x, T) : copy_to_tensor_parallel(tape, tp_, x);
    const Var inner = ops::linear(tape, read, &first);
    const Var y = ops::row_parallel(tape, tp_, {{inner, &second}, {inner, &third}}, c.sequence);
    const std::vector<double> found = whole(y.value(), T);
    y.set_grad(c.sequence ? share(here(dy)) : here(dy));
    tape.backward();

    const auto one = doubles(w1), two = doubles(w2), three = doubles(w3), xs = doubles(whole_x),
               dys = doubles(dy);
    std::vector<double> both(two.size());
    for (size_t i = 0; i < two.size(); ++i) both[i] = two[i] + three[i];
    const auto hidden = product(xs, one, T, kWide, kInner, false, true);
    const auto expect = [&](const std::vector<double>& got, const std::vector<double>& wanted,
                            const char* what) {
      ASSERT_EQ(got.size(), wanted.size()) << what;
      double worst = 0, size = 0;
      for (size_t i = 0; i < got.size(); ++i)
        worst = std::max(worst, std::abs(got[i] - wanted[i])), size = std::max(size, std::abs(wanted[i]));
      EXPECT_LT(worst, near * size) << what << ", T = " << T;
    };
    expect(found, product(hidden, both, T, kInner, kWide, false, true), "y");
    const auto dhidden = product(dys, both, T, kWide, kInner, false, false);
    expect(whole(x.grad(), T), product(dhidden, one, T, kInner, kWide, false, false), "dx");
    const auto dw1 = product(dhidden, xs, kInner, T, kWide, true, false),
               dw2 = product(dys, hidden, kWide, T, kInner, true, false);
    const Range r = mine();
    expect(doubles(first.var.grad()), {dw1.begin() + r.begin * kWide, dw1.begin() + r.end * kWide}, "dW1");
    std::vector<double> columns;
    for (int64_t o = 0; o < kWide; ++o)
      columns.insert(columns.end(), dw2.begin() + o * kInner + r.begin, dw2.begin() + o * kInner + r.end);
    expect(doubles(second.var.grad()), columns, "dW2");
    expect(doubles(third.var.grad()), columns, "dW3");
  }
}

constexpr Device kGpu{DeviceKind::cuda, 0};
INSTANTIATE_TEST_SUITE_P(Ways, TensorParallelMpi,
                         testing::Values(Case{}, Case{kGpu}, Case{kGpu, false}, Case{kGpu, true, DType::bf16},
                                         Case{.device = {}, .sequence = true},
                                         Case{kGpu, true, DType::bf16, true}),
                         [](const auto& info) {
                           return info.index == 0   ? std::string("cpu")
                                  : info.index == 1 ? "cuda"
                                  : info.index == 2 ? "cuda_without_overlap"
                                  : info.index == 3 ? "cuda_bf16"
                                  : info.index == 4 ? "sequence"
                                                    : "cuda_bf16_sequence";
                         });

}  // namespace
}  // namespace wuneng
