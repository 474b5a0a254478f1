// The CUDA kernels of teacher signals against the CPU's: the most probable tokens, the loss that takes them,
// and rows of 8-bit numbers.
#include "kernels/row_scaled.h"
#include "kernels/top_k.h"
#include "kernels/top_k_loss.h"
#include "tests/unit/backends.h"

namespace wuneng::kernels::backend_parity_signals_test {
namespace {

constexpr int64_t C = 9;

TEST(BackendParity, RowScaled) {
  for (const int64_t columns : {1, 37, 600})
    expect_backends_agree([&](Side& side) {
      const Tensor x = side.normal({C, columns});
      if (columns > 1) x.rows(2, 3).zero();
      const Tensor packed = Tensor::empty({C, columns + kScaleBytes}, DType::i8, side.stream.device);
      pack_scaled(side.stream, {.x = x, .packed = packed});
      unpack_scaled(side.stream, {.packed = packed, .x = side.out({C, columns}, DType::f32)});
    });
}

// Equal candidates, several passes of the radix select, fewer candidates than k, and the parts of two ranks.
TEST(BackendParity, TopK) {
  for (const int64_t N : {5, 40, 700})
    for (const int64_t k : {1, 12, 300})
      expect_backends_agree([&](Side& side) {
        const Tensor x = side.normal({1, C, N}, DType::f32),
                     equal = Tensor::zeros({1, C, N}, DType::f32, side.stream.device);
        const auto ids = [&] { return Tensor::empty({C, k}, DType::i32, side.stream.device); };
        const auto top = [&] { return side.out({C, k + 1}, DType::f32); };
        const bool all = N <= k;
        top_k(side.stream, {.x = x, .factor = 1.5f, .normalize = !all, .top = top(), .top_ids = ids()});
        top_k(side.stream, {.x = equal, .top = top(), .top_ids = ids()});
        if (all) return;
        const Tensor both = Tensor::empty({2, C, k + 1}, DType::f32, side.stream.device),
                     both_ids = Tensor::empty({2, C, k}, DType::i32, side.stream.device);
        for (int rank = 0; rank < 2; ++rank)
          top_k(side.stream, {.x = side.normal({1, C, N}, DType::f32),
                              .first = rank * N,
                              .top = both.rows(rank, rank + 1).view({C, k + 1}),
                              .top_ids = both_ids.rows(rank, rank + 1).view({C, k})});
        top_k(side.stream, {.x = both,
                            .ids = both_ids,
                            .has_rest = true,
                            .normalize = true,
                            .top = top(),
                            .top_ids = ids()});
      });
}

// A rank that has some of the teacher's columns, rows without a label, and the gradient in the logits' place.
TEST(BackendParity, TopKLoss) {
  constexpr int64_t V = 700, k = 20;
  for (const float beta : {0.0f, 0.3f, 1.0f})
    for (const int64_t shared : {V, int64_t{613}, int64_t{0}})
      expect_backends_agree([&](Side& side) {
        const Tensor teacher = side.normal({1, C, V}, DType::f32),
                     ids = Tensor::empty({C, k}, DType::i32, side.stream.device),
                     logprobs = side.out({C, k + 1}, DType::f32);
        top_k(side.stream, {.x = teacher, .first = 100, .normalize = true, .top = logprobs, .top_ids = ids});
        const LossInputs in{.logits = side.normal({C, V}, DType::f32),
                            .teacher = {},
                            .inverse_temperature = 0.5f,
                            .labels = side.table(side.whole_numbers(C, -300, 100 + V)),
                            .begin = 100};
        const TopKColumns columns{ids, shared};
        const auto f64 = [&](Shape shape) {
          return side.remember(Tensor::zeros(std::move(shape), DType::f64, side.stream.device));
        };
        const Tensor maxima = side.out({3, C}, DType::f32), sums = f64({5, C}),
                     chosen = side.out({C, k}, DType::f32);
        top_k_statistics(side.stream, {in, columns, maxima, sums, chosen});
        side.remember(in.logits.clone());
        if (shared == 0) return;  // another rank has all of the rest
        const Tensor divergence = f64({C}), slopes = side.out({C, k + 1}, DType::f32);
        top_k_divergence(side.stream, {.maxima = maxima,
                                       .sums = sums,
                                       .chosen = chosen,
                                       .teacher = logprobs,
                                       .inverse_temperature = 0.5f,
                                       .beta = beta,
                                       .divergence = divergence,
                                       .slopes = slopes});
        std::vector<float> weights(C, 0.7f), none(C, 0.0f);
        weights[3] = 0;
        const Tensor some = side.table(weights), zero = side.table(none);
        for (const auto& [kl, ce] : {std::pair(some, some), {some, zero}, {zero, some}})
          top_k_gradient(side.stream, {in, columns, maxima, sums, chosen, slopes, kl, ce, side.out({C, V})});
        top_k_gradient(side.stream,
                       {in, columns, maxima, sums, chosen, slopes, some, some, side.remember(in.logits)});
      });
}

}  // namespace
}  // namespace wuneng::kernels::backend_parity_signals_test
