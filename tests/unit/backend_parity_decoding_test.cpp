// The kernels of generation, with few rows or single tokens, against the CPU's.
#include <cstring>

#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "kernels/rows.h"
#include "kernels/wkv7.h"
#include "tests/unit/backends.h"

namespace wuneng::kernels::backend_parity_decoding_test {
namespace {

class MatrixTypes : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Types, MatrixTypes, testing::Values(DType::f32, DType::bf16, DType::f16, DType::i8),
                         [](const auto& info) { return std::string(to_string(info.param)); });

// A matrix [N, K] of a type, and the scales of its rows for i8. Its numbers are exact in bf16.
struct Matrix {
  Tensor values, scale;
  Matrix(Side& side, int64_t N, int64_t K, DType type) {
    if (type != DType::i8) {
      values = side.normal({N, K}, DType::bf16).to(Device{}).to(DType::f32).to(type).to(side.stream.device);
      return;
    }
    const std::vector<int32_t> numbers = side.whole_numbers(N * K, -127, 127);
    values = Tensor::from<int8_t>({numbers.begin(), numbers.end()}, {N, K}).to(side.stream.device);
    scale = side.uniform({N}, 0.005f, 0.02f, DType::f32);
  }
};

// Whole vectors of b, a tail, and one element.
TEST_P(MatrixTypes, ProductsOfFewRows) {
  for (const int64_t K : {27, 160, 1})
    for (const int64_t M : {1, 3, 7, 16})
      expect_backends_agree([&](Side& side) {
        const int64_t N = 33;
        const Matrix b(side, N, K, GetParam());
        MatmulArgs args{.a = side.normal({M, K}),
                        .b = b.values,
                        .c = side.out({M, N}),
                        .transpose_b = true,
                        .b_scale = b.scale,
                        .by_row = true};
        matmul(side.stream, args);
        args.scale = 0.5f, args.bias = side.normal({N}, DType::bf16), args.base = side.normal({M, N});
        args.c = side.out({M, N});
        matmul(side.stream, args);
        args.c = side.sum({M, N}), args.base = {}, args.bias = side.normal({N}, DType::f32);
        args.accumulate = 1;
        matmul(side.stream, args);
        args.base = args.c, args.accumulate = 0;
        matmul(side.stream, args);
      });
}

// On a GPU products of bf16 numbers: the activations are such numbers.
TEST_P(MatrixTypes, ProductsOfManyRows) {
  expect_backends_agree([&](Side& side) {
    const int64_t M = 39, N = 33, K = 27;
    const Matrix b(side, N, K, GetParam());
    MatmulArgs args{.a = side.activation(side.normal({M, K}, DType::bf16).to(Device{}).to(DType::f32)),
                    .b = b.values,
                    .c = side.out({M, N}),
                    .transpose_b = true,
                    .b_scale = b.scale,
                    .by_row = true};
    matmul(side.stream, args);
    args.scale = 0.5f, args.bias = side.normal({N}), args.base = side.normal({M, N}),
    args.c = side.out({M, N});
    matmul(side.stream, args);
  });
}

TEST_P(MatrixTypes, EmbeddingOfAnyType) {
  for (const int64_t d : {20, 32, 1})
    expect_backends_agree([&](Side& side) {
      const Matrix table(side, 6, d, GetParam());
      embedding(side.stream, {.table = table.values,
                              .tokens = side.table(side.whole_numbers(37, 0, 12)),
                              .begin = 4,
                              .y = side.out({37, d}),
                              .scale = table.scale});
    });
}

TEST(BackendParity, HeadProductsOfFewRows) {
  for (const DType weights : {DType::f32, DType::bf16})
    for (const int64_t I : {12, 16})
      expect_backends_agree([&](Side& side) {
        const int64_t T = 5, H = 3, O = 7;
        const Tensor x = side.normal({T, H, I}), w = side.normal({H, O, I}, weights);
        head_matmul(side.stream, {.x = x, .w = w, .y = side.out({T, H, O}), .by_row = true});
        const Tensor sum = side.sum({T, H, O});
        head_matmul(side.stream, {.x = x, .w = w, .y = sum, .base = sum, .by_row = true});
      });
}

// One place in an array of rows is no multiple of 16 bytes.
TEST(BackendParity, ProductsOfFewUnalignedRows) {
  expect_backends_agree([&](Side& side) {
    const int64_t M = 3, N = 9, K = 32;
    const auto view = [&](const Tensor& all, Shape shape) { return all.rows(3, all.numel()).view(shape); };
    matmul(side.stream, {.a = view(side.normal({M * K + 3}), {M, K}),
                         .b = view(side.normal({N * K + 3}, DType::bf16), {N, K}),
                         .c = view(side.out({M * N + 3}), {M, N}),
                         .transpose_b = true,
                         .by_row = true});
  });
}

TEST(FewRows, ARowIsToTheBitWhatItIsAlone) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU here";
  Side side({DeviceKind::cuda, 0}, DType::f32, 1);
  const int64_t N = 21, K = 300;
  const Tensor a = side.normal({16, K}), b = side.normal({N, K}, DType::bf16), c = side.out({16, N});
  const auto run = [&](const Tensor& rows, const Tensor& out) {
    matmul(side.stream, {.a = rows, .b = b, .c = out, .transpose_b = true, .by_row = true});
  };
  run(a, c);
  const Tensor all = c.to(Device{});
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 1}, {15, 16}, {6, 9}}) {
    const Tensor some = side.out({end - begin, N});
    run(a.rows(begin, end), some);
    EXPECT_EQ(std::memcmp(some.to(Device{}).raw(), all.rows(begin, end).raw(), (end - begin) * N * 4), 0);
  }
}

TEST(BackendParity, RowsByATable) {
  expect_backends_agree([](Side& side) {
    const int64_t C = 12;
    const std::vector<int32_t> rows = {8, 2, 5};
    const std::vector<RowRun> runs = {{8, 1}, {2, 1}, {5, 1}}, sizes = {{0, 1}, {0, 1}, {0, 1}};
    const bool on_gpu = side.stream.device.kind == DeviceKind::cuda;
    const Tensor table = on_gpu ? side.table(rows) : Tensor();
    pack_rows(side.stream, {.tall = side.normal({9, C}),
                            .packed = side.out({3, C}),
                            .runs = on_gpu ? sizes : runs,
                            .rows = table});
    unpack_rows(side.stream, {.tall = side.out({9, C}),
                              .packed = side.normal({3, C}),
                              .runs = on_gpu ? sizes : runs,
                              .rows = table});
    copy_rows(side.stream, {.from = side.normal({9, 2, 5}),
                            .to = side.out({9, 2, 5}),
                            .rows = side.table(std::vector<int32_t>{3, -1, 0, 8, -1})});
  });
}

struct CachedAttentionCase {
  const char* name;
  int64_t D;
  std::vector<AttentionSegment> segments;
  std::vector<int> kv_head;
  int64_t window = 0;
};
std::ostream& operator<<(std::ostream& out, const CachedAttentionCase& c) { return out << c.name; }
class DecodeAttention : public testing::TestWithParam<CachedAttentionCase> {};

// Keys that no query attends to are NaN. by_table: places come from device memory, and those of `segments`
// are wrong.
void run_attention(Side& side, const CachedAttentionCase& c, bool by_table) {
  const int64_t H = std::ssize(c.kv_head), G = c.kv_head.back() + 1;
  int64_t q_rows = 0, k_rows = 0;
  for (const AttentionSegment& s : c.segments) {
    q_rows = std::max(q_rows, s.q_begin + s.q_count + 1);
    k_rows = std::max(k_rows, s.k_begin + s.offset + s.q_count + 1);
  }
  const auto seen = [&](const Tensor& x) {
    const Tensor out = x.to(Device{}).to(DType::f32).clone();
    for (int64_t row = 0; row < k_rows; ++row)
      if (std::none_of(c.segments.begin(), c.segments.end(), [&](const AttentionSegment& s) {
            const int64_t first = s.offset + 1 - (c.window ? c.window : s.offset + 1);
            return row >= s.k_begin + std::max<int64_t>(0, first) && row < s.k_begin + s.offset + s.q_count;
          }))
        std::fill_n(out.f32() + row * G * c.D, G * c.D, std::numeric_limits<float>::quiet_NaN());
    return side.activation(out);
  };
  AttentionForwardArgs args{.q = side.normal({q_rows, H, c.D}),
                            .k = seen(side.normal({k_rows, G, c.D})),
                            .v = seen(side.normal({k_rows, G, c.D})),
                            .out = side.out({q_rows, H, c.D}),
                            .lse = Tensor::empty({q_rows, H}, DType::f32, side.stream.device),
                            .segments = c.segments,
                            .kv_head = c.kv_head,
                            .window = c.window,
                            .by_row = true};
  if (by_table && side.stream.device.kind == DeviceKind::cuda) {
    std::vector<int32_t> table;
    for (AttentionSegment& s : args.segments) {
      for (const int64_t x : {s.q_begin, s.q_count, s.k_begin, s.offset})
        table.push_back(static_cast<int32_t>(x));
      s = {0, 1, 0, 0};
    }
    args.table = side.table(table).view({std::ssize(args.segments), 4});
  }
  attention_forward(side.stream, args);
}

TEST_P(DecodeAttention, Agrees) {
  expect_backends_agree([&](Side& side) { run_attention(side, GetParam(), false); });
}
TEST_P(DecodeAttention, AgreesByATable) {
  for (const AttentionSegment& s : GetParam().segments)
    if (s.q_count > 1) return;
  expect_backends_agree([&](Side& side) { run_attention(side, GetParam(), true); });
}

const std::vector<AttentionSegment> kBatch = {{0, 1, 0, 0}, {1, 1, 40, 36}, {2, 1, 100, 300}, {3, 1, 80, 3}};
INSTANTIATE_TEST_SUITE_P(
    Cases, DecodeAttention,
    testing::Values(CachedAttentionCase{"one_query", 64, {{0, 1, 3, 210}}, {0, 0, 1, 1}},
                    CachedAttentionCase{"a_batch", 128, kBatch, {0, 0, 0, 1, 1}},
                    CachedAttentionCase{"a_head_each", 20, kBatch, {0, 1, 2}},
                    CachedAttentionCase{"more_heads_than_go_together", 16, kBatch, std::vector<int>(9)},
                    CachedAttentionCase{"odd_width", 33, kBatch, {0, 0}},
                    CachedAttentionCase{"widest", 256, {{0, 1, 0, 90}}, {0, 0}},
                    CachedAttentionCase{"narrow", 4, kBatch, {0, 0}},
                    CachedAttentionCase{"a_window", 64, kBatch, {0, 0, 1}, 30},
                    CachedAttentionCase{"a_window_of_one_key", 64, kBatch, {0}, 1},
                    CachedAttentionCase{"few_queries", 64, {{1, 3, 5, 70}, {5, 4, 90, 0}}, {0, 0, 1}},
                    CachedAttentionCase{"few_queries_in_a_window", 24, {{0, 4, 5, 70}}, {0, 0}, 3}),
    [](const auto& info) { return std::string(info.param.name); });

// One token of each sequence, with and without states before it; in place too.
TEST(BackendParity, Wkv7OfSingleTokens) {
  for (const int64_t D : {10, 20, 64, 128})
    expect_backends_agree([&](Side& side) {
      const int64_t S = 5, N = 3;
      const std::vector<int> head_state = {0, 0, 2};
      const Shape inputs = {S, N, D}, states = {S, N, D, D};
      const float width = 1 / std::sqrt(float(D));
      Wkv7Inputs in{.log_w = side.uniform(inputs, -0.6f, 0),
                    .k = side.uniform(inputs, -width, width),
                    .v = side.normal(inputs),
                    .kappa = side.uniform(inputs, -width, width),
                    .rate = side.uniform(inputs, 0.05f, 0.95f)};
      for (int64_t s = 0; s < S; ++s) in.segments.push_back({s, 1});
      const auto run = [&](const Tensor& initial, const Tensor& final) {
        wkv7_recurrent(side.stream, {.in = in,
                                     .head_state = head_state,
                                     .r = side.normal(inputs),
                                     .y = side.out(inputs),
                                     .initial = initial,
                                     .final = final});
      };
      run(side.normal(states, DType::f32), side.out(states, DType::f32));
      run({}, side.out(states, DType::f32));
      const Tensor kept = side.sum(states, DType::f32);
      run(kept, kept);
    });
}

}  // namespace
}  // namespace wuneng::kernels::backend_parity_decoding_test
