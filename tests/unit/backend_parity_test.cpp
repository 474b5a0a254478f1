// Every CUDA kernel against the CPU kernel, which other tests compare with double precision. Runs on a GPU,
// or in the `emulated` build on the CPU.
#include "kernels/adamw.h"
#include "kernels/bonus.h"
#include "kernels/channel.h"
#include "kernels/clip.h"
#include "kernels/label_logprob.h"
#include "kernels/loss.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "kernels/pointwise.h"
#include "kernels/reduce.h"
#include "kernels/rope.h"
#include "kernels/row_distance.h"
#include "kernels/rows.h"
#include "model/rope_settings.h"
#include "tests/unit/backends.h"

namespace wuneng::kernels::backend_parity_test {
namespace {

// Shapes that are not multiples of a block, warp or vector: rows, heads, channels of a head.
constexpr int64_t T = 37, H = 3, D = 20, C = H * D;
// Channel counts: not a multiple of a bf16 vector, a multiple, a single element.
const std::vector<int64_t> kChannels = {D, 32, 1};
const std::vector<int64_t> kDocuments = {0, 5, 6, 30, T};

std::vector<int32_t> boundaries_of(const std::vector<int64_t>& documents) {
  std::vector<int32_t> document_boundaries(documents.back());
  for (size_t d = 0; d + 1 < documents.size(); ++d)
    document_boundaries[documents[d]] |= kDocumentBegins,
        document_boundaries[documents[d + 1] - 1] |= kDocumentEnds;
  return document_boundaries;
}

class Weights : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, Weights, testing::Values(DType::f32, DType::bf16),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST(BackendParity, TensorsAddAndConvert) {
  expect_backends_agree(
      [](Side& side) {
        side.sum({T, C}).add(side.normal({T, C}));
        const Tensor narrow = Tensor::empty({T, C}, DType::bf16, side.stream.device);
        narrow.copy_from(side.normal({T, C}));
        side.remember(narrow);
        side.remember(narrow.to(DType::f32));
        side.out({5, 7}).copy_from(side.normal({5, 7}));
        side.remember(side.normal({C}).clone());
        side.remember(Tensor::zeros({3}, DType::f32, side.stream.device));
      },
      0);
}

// RWKV-7's: the mean taken off, and the bonus; with and without a gradient that is there already.
TEST(BackendParity, CenterAndBonus) {
  for (const int64_t channels : kChannels)
    expect_backends_agree([&](Side& side) {
      const auto normal = [&] { return side.normal({T, H, channels}); };
      const auto out = [&] { return side.out({T, H, channels}); };
      const Tensor a = normal(), b = normal(), v = normal(), base = normal(), dy = normal();
      center(side.stream, {.x = a, .y = {out(), {}}});
      center(side.stream, {.x = a, .y = {out(), base}});
      bonus(side.stream, {.a = a, .b = b, .v = v, .base = base, .y = out()});
      bonus_backward(side.stream, {.a = a, .b = b, .v = v, .dy = dy, .da = {out(), {}}, .db = {out(), base}});
      bonus_backward(side.stream, {.a = a, .b = b, .v = v, .dy = dy, .dv = {out(), base}});
    });
}

// Rows without a label, equal rows, and a teacher of either type; with and without the gradient.
TEST(BackendParity, RowDistance) {
  for (const DType teacher : {DType::f32, DType::bf16})
    for (const int64_t d : {1, 20, 96})
      expect_backends_agree([&](Side& side) {
        std::vector<int32_t> labels = side.whole_numbers(T, -2, 3);
        const Tensor student = side.normal({T, d}), other = side.normal({T, d}, teacher);
        other.rows(0, 2).copy_from(student.rows(0, 2));
        labels[1] = 1;
        const auto sum = [&] { return side.remember(Tensor::zeros({1}, DType::f64, side.stream.device)); };
        const auto run = [&](const Tensor& tokens, const Tensor& gradient) {
          row_distance(side.stream, {.student = student,
                                     .teacher = other,
                                     .labels = side.table(labels),
                                     .scale = 0.3f,
                                     .total = sum(),
                                     .tokens = tokens,
                                     .gradient = gradient});
        };
        run(sum(), side.out({T, d}));
        run({}, {});
      });
}

// Gradients that are overwritten, accumulated in place, and accumulated to a separate base. Whole vectors, a
// tail, and unaligned tensors.
TEST(BackendParity, Pointwise) {
  for (const auto f : {Pointwise::silu, Pointwise::tanh, Pointwise::sigmoid, Pointwise::mix, Pointwise::add,
                       Pointwise::gate})
    for (const int64_t skipped : {0, 1, 8})
      expect_backends_agree([&](Side& side) {
        const int64_t n = 16 * 37 + (skipped ? 5 : 0);
        const auto view = [&](const Tensor& all) { return all.rows(skipped, skipped + n); };
        const auto normal = [&] { return view(side.normal({n + skipped})); };
        const Tensor a = normal(), b = normal(), c = view(side.uniform({n + skipped}, 0, 1)), dy = normal(),
                     kept = side.remember(normal());
        const Tensor y = view(side.out({n + skipped}));
        pointwise(side.stream, {.function = f, .a = a, .b = b, .c = c, .y = y});
        PointwiseBackwardArgs back{.function = f, .a = a, .b = b, .c = c, .y = y, .dy = dy};
        back.da = view(side.sum({n + skipped})), back.db = back.dc = {};
        if (f == Pointwise::mix || f == Pointwise::add) back.db = {view(side.out({n + skipped})), kept};
        if (f == Pointwise::mix) back.dc = {view(side.out({n + skipped})), {}};
        pointwise_backward(side.stream, back);
        back.da = {view(side.out({n + skipped})), {}}, back.db = back.dc = {};
        pointwise_backward(side.stream, back);
      });
}

TEST_P(Weights, Bias) {
  for (const int64_t D : kChannels)
    expect_backends_agree([&, C = H * D](Side& side) {
      add_bias(side.stream,
               {.x = side.normal({T, C}), .bias = side.normal({C}, GetParam()), .y = side.out({T, C})});
      column_sum(side.stream, {.dy = side.normal({T, C}), .dbias = side.sum({C}, DType::f32)});
      column_sum(side.stream, {.dy = side.normal({700, 5}), .dbias = side.sum({5}, DType::f32)});
      column_sum(side.stream, {.dy = side.normal({700, 24}), .dbias = side.sum({24}, DType::f32)});
      column_sum(side.stream, {.dy = side.normal({0, 5}), .dbias = side.sum({5}, DType::f32)});
      const Tensor y = side.out({T, C});
      bias_sigmoid(side.stream,
                   {.x = side.normal({T, C}), .bias = side.normal({C}, GetParam()), .scale = -0.6f, .y = y});
      bias_sigmoid_backward(side.stream, {.y = y,
                                          .dy = side.normal({T, C}),
                                          .scale = -0.6f,
                                          .dx = side.sum({T, C}),
                                          .dbias = side.sum({C}, DType::f32)});
    });
}

TEST_P(Weights, KeyScaleAndTokenShift) {
  for (const int64_t D : kChannels)
    expect_backends_agree([&, C = H * D](Side& side) {
      const Tensor key = side.normal({T, C}), rate = side.uniform({T, C}, 0, 1),
                   k_a = side.normal({C}, GetParam());
      key_scale(side.stream, {.key = key, .rate = rate, .k_a = k_a, .y = side.out({T, C})});
      key_scale_backward(side.stream, {.key = key,
                                       .rate = rate,
                                       .k_a = k_a,
                                       .dy = side.normal({T, C}),
                                       .dkey = side.sum({T, C}),
                                       .drate = side.sum({T, C}),
                                       .dk_a = side.sum({C}, DType::f32)});
      const Tensor mu = side.normal({C}, GetParam());
      const Tensor document_boundaries = side.table(boundaries_of(kDocuments));
      token_shift(side.stream,
                  {.x = key, .mu = mu, .y = side.out({T, C}), .document_boundaries = document_boundaries});
      token_shift_backward(side.stream, {.x = key,
                                         .mu = mu,
                                         .dy = side.normal({T, C}),
                                         .dx = side.sum({T, C}),
                                         .dmu = side.sum({C}, DType::f32),
                                         .document_boundaries = document_boundaries});
    });
}

TEST(BackendParity, SumsOfAHeadOverManyRows) {  // several partial sums of more channels than a warp has lanes
  expect_backends_agree([&](Side& side) {
    const Shape shape = {600, 2, 48};
    scale_heads_backward(side.stream, {.x = side.normal(shape),
                                       .s = side.normal({2}),
                                       .dy = side.normal(shape),
                                       .ds = side.sum({2}, DType::f32)});
  });
}

TEST_P(Weights, ScaleChannels) {
  for (const int64_t D : kChannels)
    expect_backends_agree([&](Side& side) {
      const Shape shape = {T, H, D};
      const Tensor x = side.normal(shape), w = side.normal({H * D}, GetParam()), dy = side.normal(shape);
      scale_channels(side.stream, {.x = x, .w = w, .factor = 4, .y = side.out(shape)});
      const Tensor dw = side.sum({H * D}, DType::f32);
      scale_channels_backward(side.stream,
                              {.x = x, .w = w, .dy = dy, .factor = 4, .dx = side.sum(shape), .dw = dw});
      scale_channels_backward(side.stream,
                              {.x = x, .w = w, .dy = dy, .factor = 4, .dx = {side.out(shape), {}}});
    });
}

TEST_P(Weights, ScaleHeads) {
  for (const int64_t heads : {int64_t{H}, int64_t{4}})  // rows are multiples of a vector, heads are not
    for (const int64_t D : kChannels)
      expect_backends_agree([&](Side& side) {
        const Shape shape = {T, heads, D};
        const Tensor x = side.normal(shape), s = side.normal({heads}, GetParam());
        scale_heads(side.stream, {.x = x, .s = s, .y = side.out(shape)});
        scale_heads(side.stream, {.x = x, .s = s, .base = side.normal(shape), .y = side.out(shape)});
        scale_heads_backward(side.stream, {.x = x,
                                           .s = s,
                                           .dy = side.normal(shape),
                                           .dx = side.sum(shape),
                                           .ds = side.sum({heads}, DType::f32)});
      });
}

// Rows of vectors and of single elements, narrower and wider than a warp; a number of rows that does not fill
// a block.
TEST_P(Weights, Norms) {
  for (const auto& shape :
       {Shape{T, C}, Shape{T, H, D}, Shape{2, 1, 1000}, Shape{T, 2, 128}, Shape{3, 1536}, Shape{5, 7}})
    for (const int64_t skipped : {0, 1})
      expect_backends_agree([&](Side& side) {
        const int64_t n = element_count(shape), width = n / shape[0];
        const auto view = [&](const Tensor& all) { return all.rows(skipped, skipped + n).view(shape); };
        const auto normal = [&] { return view(side.normal({n + skipped})); };
        const auto out = [&] { return view(side.out({n + skipped})); };
        const Tensor x = normal(), w = side.normal({width}, GetParam()), dy = normal(), base = normal();
        rms_norm(side.stream, {.x = x, .weight = w, .eps = 1e-6f, .y = out()});
        rms_norm(side.stream, {.x = x, .weight = w, .eps = 1e-6f, .y = out(), .base = base, .sum = out()});
        RmsNormBackwardArgs back{.x = x, .weight = w, .eps = 1e-6f, .dy = dy};
        back.dx = view(side.sum({n + skipped})), back.dweight = side.sum({width}, DType::f32);
        rms_norm_backward(side.stream, back);
        back.dx = {out(), base}, back.dweight = {};
        rms_norm_backward(side.stream, back);
        back.dx = {}, back.dweight = side.sum({width}, DType::f32);
        rms_norm_backward(side.stream, back);
        l2_norm(side.stream, {.x = x, .y = out()});
        l2_norm_backward(side.stream, {.x = x, .dy = dy, .dx = view(side.sum({n + skipped}))});
        l2_norm_backward(side.stream, {.x = x, .dy = dy, .dx = {out(), {}}});
        rms_norm(side.stream,
                 {.x = x, .weight = w, .eps = 1e-6f, .y = out(), .base = base, .sum = side.remember(base)});
      });
}

TEST(BackendParity, Rope) {
  for (const int64_t D : {20, 32, 2})
    expect_backends_agree([&](Side& side) {
      const Tensor x = side.normal({T, H, D});
      std::vector<int32_t> at(T);
      for (int64_t t = 0; t < T; ++t) at[t] = static_cast<int32_t>(t * t);
      const Tensor cos_sin = side.out({2, T, D / 2}, DType::f32), sum = side.sum({T, H, D});
      rope_cos_sin(side.stream, {.positions = side.table(at),
                                 .frequencies = rope_frequencies(1e6f, {}, D),
                                 .factor = 1.2,
                                 .cos_sin = cos_sin});
      rope(side.stream, {.x = x, .cos_sin = cos_sin, .y = side.out({T, H, D})});
      rope(side.stream, {.x = x, .cos_sin = cos_sin, .inverse = true, .y = sum, .base = sum});
      rope(side.stream,
           {.x = x, .cos_sin = cos_sin, .y = side.out({T, H, D}), .base = side.normal({T, H, D})});
      for (const DType weights : {DType::f32, DType::bf16})
        rope(side.stream, {.x = x,
                           .cos_sin = cos_sin,
                           .y = side.out({T, H, D}),
                           .added = side.normal({T, H, D}),
                           .scale = side.normal({H}, weights)});
      rope(side.stream, {.x = x, .cos_sin = cos_sin, .y = side.remember(x)});
    });
}

// With a bf16 weight a GPU rounds the activations to bf16: these are rounded already.
Tensor activations(Side& side, Shape shape, DType weights) {
  return side.activation(side.normal(std::move(shape), weights).to(Device{}).to(DType::f32));
}

TEST_P(Weights, Matmul) {
  for (const bool ta : {false, true})
    for (const bool tb : {false, true})
      expect_backends_agree([&](Side& side) {
        const int64_t M = 19, N = 33, K = 27;
        const Tensor a = activations(side, ta ? Shape{K, M} : Shape{M, K}, GetParam()),
                     b = side.normal(tb ? Shape{N, K} : Shape{K, N}, GetParam());
        matmul(side.stream, {.a = a, .b = b, .c = side.out({M, N}), .transpose_a = ta, .transpose_b = tb});
        matmul(side.stream, {.a = a,
                             .b = b,
                             .c = side.sum({M, N}),
                             .transpose_a = ta,
                             .transpose_b = tb,
                             .scale = 0.5f,
                             .accumulate = 1});
        matmul(side.stream, {.a = a,
                             .b = b.to(DType::f32),
                             .c = side.sum({M, N}),
                             .transpose_a = ta,
                             .transpose_b = tb,
                             .accumulate = 1,
                             .like = GetParam()});
        matmul(side.stream, {.a = side.normal({M, 0}), .b = side.normal({0, N}), .c = side.out({M, N})});
      });
}

// The emulated cublasLt supports the bias-gradient epilogue for 20 rows but not for 19; an offset of 3
// elements tests unaligned memory.
TEST_P(Weights, MatmulWithBaseBiasAndSums) {
  for (const int64_t M : {19, 20})
    for (const int64_t skipped : {0, 3})
      for (const int64_t K : {27, 0})
        expect_backends_agree([&](Side& side) {
          const int64_t N = 33;
          const auto view = [&](Shape shape, const Tensor& all) {
            return all.rows(skipped, all.numel()).view(shape);
          };
          const Tensor a = view({K, M}, activations(side, {K * M + skipped}, GetParam())),
                       b = view({K, N}, activations(side, {K * N + skipped}, GetParam())),
                       base = view({M, N}, side.normal({M * N + skipped})),
                       bias = side.normal({N}, GetParam());
          const MatmulArgs args{
              .a = a, .b = b, .c = side.out({M, N}), .transpose_a = true, .like = GetParam()};
          MatmulArgs one = args;
          one.base = base, one.bias = bias;
          matmul(side.stream, one);
          one.c = side.sum({M, N}), one.base = one.c;
          matmul(side.stream, one);
          one.c = side.out({M, N}), one.base = {};
          matmul(side.stream, one);
          one = args;
          one.c = side.sum({M, N}, DType::f32), one.accumulate = 1, one.sums = side.sum({M}, DType::f32);
          matmul(side.stream, one);
        });
}

TEST_P(Weights, HeadMatmul) {
  expect_backends_agree([](Side& side) {
    const int64_t O = 7, I = 12;
    const Tensor w = side.normal({H, O, I}, GetParam()), x = activations(side, {T, H, I}, GetParam()),
                 dy = activations(side, {T, H, O}, GetParam());
    head_matmul(side.stream, {.x = x, .w = w, .y = side.out({T, H, O})});
    const Tensor sum = side.sum({T, H, O});
    head_matmul(side.stream, {.x = x, .w = w, .y = sum, .base = sum});
    head_matmul(side.stream, {.x = x, .w = w, .y = side.out({T, H, O}), .base = side.normal({T, H, O})});
    head_matmul(side.stream, {.x = dy, .w = w, .y = side.out({T, H, I}), .transpose = true});
    head_matmul_weight_grad(side.stream,
                            {.dy = dy, .x = x, .dw = side.sum({H, O, I}, DType::f32), .like = GetParam()});
  });
}

TEST(BackendParity, Heads) {
  for (const int64_t D : kChannels)
    expect_backends_agree([&, C = H * D](Side& side) {
      const std::vector<int> map = {2, 0, 0, 1, 2};
      const Tensor five = side.normal({T, 5, D}), three = side.normal({T, H, D}), sum5 = side.sum({T, 5, D}),
                   sum3 = side.sum({T, H, D});
      select_heads(side.stream, {.x = three, .y = side.out({T, 5, D}), .map = map});
      select_heads(side.stream, {.x = three, .y = sum5, .map = map, .base = sum5});
      select_heads(side.stream, {.x = three, .y = side.out({T, 5, D}), .map = map, .base = five});
      sum_heads(side.stream, {.x = five, .y = side.out({T, 4, D}), .map = map});
      sum_heads(side.stream, {.x = five, .y = sum3, .map = map, .base = sum3});
      sum_heads(side.stream, {.x = five, .y = side.out({T, H, D}), .map = map, .base = three});
    });
}

TEST(BackendParity, Rows) {
  for (const int64_t D : kChannels)
    expect_backends_agree([&, C = H * D](Side& side) {
      const std::vector<RowRun> runs = {{3, 4}, {20, 1}, {30, 7}};
      pack_rows(side.stream, {.tall = side.normal({T, C}), .packed = side.out({12, C}), .runs = runs});
      unpack_rows(side.stream, {.tall = side.out({T, C}), .packed = side.normal({12, C}), .runs = runs});
      unpack_rows(
          side.stream,
          {.tall = side.sum({T, C}), .packed = side.normal({12, C}), .runs = runs, .accumulate = true});
      for (const auto& [A, B] : {std::pair<int64_t, int64_t>{5, 8}, {3, 5}, {16, 24}}) {
        concat(side.stream, {.a = side.normal({T, A}), .b = side.normal({T, B}), .y = side.out({T, A + B})});
        concat_backward(
            side.stream,
            {.da = side.sum({T, H, A}), .db = side.sum({T, H, B}), .dy = side.normal({T, H, A + B})});
        concat_backward(side.stream,
                        {.da = {side.out({T, A}), side.normal({T, A})}, .dy = side.normal({T, A + B})});
        concat_backward(side.stream, {.db = {side.out({T, B}), {}}, .dy = side.normal({T, A + B})});
      }
    });
}

TEST_P(Weights, Embedding) {
  for (const int64_t D : kChannels)
    expect_backends_agree([&, C = H * D](Side& side) {
      const Tensor tokens = Tensor::from(side.whole_numbers(T, 0, 12), {T});
      embedding(side.stream, {.table = side.normal({6, C}, GetParam()),
                              .tokens = tokens.to(side.stream.device),
                              .begin = 4,
                              .y = side.out({T, C})});
      embedding_backward(
          side.stream,
          {.dy = side.normal({T, C}), .tokens = tokens, .begin = 4, .dtable = side.sum({6, C}, DType::f32)});
    });
}

// Teacher slices of either type, with row and column offsets, for a student's shard; without a teacher; and
// in place.
void compare_losses(bool rounded_logits, DType teacher_type) {
  expect_backends_agree([&](Side& side) {
    const int64_t n = 9, V = 2100;
    LossInputs in{.logits = rounded_logits ? side.normal({n, V}) : side.normal({n, V}, DType::f32),
                  .teacher = {{side.normal({n + 3, 1170}, teacher_type), 3, 40},
                              {side.normal({n, 5}, teacher_type), 0, 1210}},
                  .inverse_temperature = 0.5f,
                  .labels = side.table(std::vector<int32_t>{100, 2199, -100, 99, 2200, 250, 101, 0, 300}),
                  .begin = 100};
    const Tensor scale = side.table(std::vector<float>{0.5f, 0.5f, 0, 1, 1, 0, 0, 0.1f, 1}),
                 other = side.table(std::vector<float>{0.5f, 0, 0, 1, 0, 1, 1, 0.1f, 1});
    for (const bool teacher : {true, false}) {
      if (!teacher) in.teacher.clear();
      const Tensor maxima = side.out({3, n}, DType::f32),
                   sums = side.remember(Tensor::zeros({5, n}, DType::f64, side.stream.device)),
                   totals = side.remember(Tensor::zeros({3}, DType::f64, side.stream.device)),
                   loss = side.remember(Tensor::zeros({1}, DType::f64, side.stream.device));
      loss_statistics(side.stream, {in, maxima, sums});
      const Tensor rebased = side.remember(sums.clone());
      loss_rebase(side.stream, {maxima, side.uniform({3, n}, 4, 5, DType::f32), rebased});
      loss_totals(side.stream, {maxima, sums, in.labels, 2.0f, teacher ? 0.3f : 1.0f, 7.0, totals, loss});
      const Tensor none = Tensor::zeros({n}, DType::f32, side.stream.device);
      loss_gradient(side.stream, {in, maxima, sums, teacher ? scale : none, other, side.out({n, V})});
      loss_gradient(side.stream, {in, maxima, sums, none, other, side.remember(in.logits.clone())});
      if (!teacher) continue;
      for (const float beta : {1.0f, 0.3f}) {
        const Divergence divergence{beta,
                                    side.remember(Tensor::zeros({2, n}, DType::f64, side.stream.device))};
        loss_divergence(side.stream, {in, maxima, sums, divergence});
        loss_totals(side.stream, {maxima, sums, in.labels, 2.0f, 0.3f, 7.0, totals, loss, divergence});
        loss_gradient(side.stream, {in, maxima, sums, scale, other, side.out({n, V}), divergence});
      }
    }
    in.labels = side.table(std::vector<int32_t>(n, 100));
    const Tensor maxima = side.out({3, n}, DType::f32),
                 sums = side.remember(Tensor::zeros({5, n}, DType::f64, side.stream.device));
    loss_statistics(side.stream, {in, maxima, sums});
    label_logprob(side.stream,
                  {maxima, sums, side.remember(Tensor::zeros({n}, DType::f64, side.stream.device))});
    loss_gradient(side.stream, {in, maxima, sums, scale, other, side.remember(in.logits)});
  });
}

TEST_P(Weights, Losses) { compare_losses(false, GetParam()); }
TEST_P(Weights, LossesOfLogitsInTheTypeOfActivations) { compare_losses(true, GetParam()); }

// Tensors smaller and larger than one block's elements, and an unaligned one; memory after them is compared
// too.
TEST(BackendParity, Adamw) {
  for (const bool narrow : {false, true})
    expect_backends_agree([&](Side& side) {
      AdamwArgs args{
          .lr = 1e-2f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .gradient_scale = {}, .step = 3};
      for (const auto& [n, skipped] :
           {std::pair<int64_t, int64_t>{1, 0}, {C, 0}, {70'000, 0}, {70'001, 0}, {500, 1}}) {
        const auto view = [&](const Tensor& all) { return all.rows(skipped, n + skipped); };
        args.tensors.push_back({.master = view(side.sum({n + skipped + 3}, DType::f32)),
                                .m = view(side.sum({n + skipped + 3}, DType::f32)),
                                .v = view(side.remember(side.uniform({n + skipped + 3}, 0, 1, DType::f32))),
                                .gradient = view(side.sum({n + skipped + 3}, DType::f32)),
                                .stored = narrow ? view(side.out({n + skipped + 3}, DType::bf16)) : Tensor(),
                                .decay = n == C ? 0.0f : 0.1f});
      }
      adamw(side.stream, args);
      args.step = 4;
      // Clipped, then not finite: no update.
      const Tensor squares = Tensor::from<double>({9}, {1}).to(side.stream.device);
      for (const double most : {1.5, 0.0, 4.0}) {
        args.gradient_scale = side.out({1}, DType::f32);
        clip_scale(side.stream, {.squares = squares, .max_norm = most, .scale = args.gradient_scale});
        for (const AdamwTensors& one : args.tensors) one.gradient.copy_from(one.m);
        adamw(side.stream, args);
      }
      args.gradient_scale = Tensor::empty({1}, DType::f32, side.stream.device);  // becomes NaN
      clip_scale(side.stream, {.squares = Tensor::from<double>({INFINITY}, {1}).to(side.stream.device),
                               .max_norm = 1,
                               .scale = args.gradient_scale});
      for (const AdamwTensors& one : args.tensors) one.gradient.copy_from(one.m);
      adamw(side.stream, args);
    });
}

TEST(BackendParity, SumOfSquares) {
  expect_backends_agree([](Side& side) {
    const Tensor sum = side.remember(Tensor::zeros({1}, DType::f64, side.stream.device));
    for (int i = 0; i < 2; ++i)
      sum_of_squares(side.stream,
                     {.x = {side.normal({3}, DType::f32), side.normal({0}, DType::f32),
                            side.normal({70, 1000}, DType::f32), side.normal({506}, DType::f32).rows(1, 506)},
                      .sum = sum});
    sum_of_squares(side.stream, {.x = {}, .sum = sum});
  });
}

}  // namespace
}  // namespace wuneng::kernels::backend_parity_test
