// The CUDA backends of attention and of the WKV-7 recurrence against the CPU's.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "kernels/attention.h"
#include "kernels/boundary.h"
#include "kernels/wkv7.h"
#include "tests/unit/backends.h"

namespace wuneng::kernels::backend_parity_mixers_test {
namespace {

struct AttentionCase {
  const char* name;
  int64_t q_rows, k_rows, D;
  std::vector<AttentionSegment> segments;
  std::vector<int> kv_head;
  int poisoned = -1;  // the segment whose inputs are NaN; in the forward only its own rows may become NaN
  int64_t window = 0;
};
std::ostream& operator<<(std::ostream& out, const AttentionCase& c) { return out << c.name; }
class AttentionBackends : public testing::TestWithParam<AttentionCase> {};

struct ScopedEnvironment {
  const char* name;
  ScopedEnvironment(const char* variable, const char* value) : name(variable) { setenv(name, value, 1); }
  ~ScopedEnvironment() { unsetenv(name); }
};

// Random in the rows of the segments, NaN in the others, which must not be read.
Tensor numbers(Side& side, Shape shape, const std::vector<bool>& named) {
  const Tensor x = side.normal(shape).to(Device{}).to(DType::f32).clone();
  const int64_t width = x.numel() / shape[0];
  for (int64_t i = 0; i < x.numel(); ++i)
    if (!named[i / width]) x.f32()[i] = std::numeric_limits<float>::quiet_NaN();
  return side.activation(x);
}

void run_attention(Side& side, const AttentionCase& c) {
  const int64_t H = static_cast<int64_t>(c.kv_head.size()), G = c.kv_head.back() + 1;
  std::vector<bool> queries(c.q_rows), keys(c.k_rows);
  for (const AttentionSegment& s : c.segments) {
    if (&s - c.segments.data() == c.poisoned) continue;
    std::fill_n(queries.begin() + s.q_begin, s.q_count, true);
    std::fill_n(keys.begin() + s.k_begin, s.offset + s.q_count, true);
  }
  AttentionForwardArgs f{.q = numbers(side, {c.q_rows, H, c.D}, queries),
                         .k = numbers(side, {c.k_rows, G, c.D}, keys),
                         .v = numbers(side, {c.k_rows, G, c.D}, keys),
                         .out = side.out({c.q_rows, H, c.D}),
                         .lse = side.out({c.q_rows, H}, DType::f32),
                         .segments = c.segments,
                         .kv_head = c.kv_head,
                         .window = c.window};
  attention_forward(side.stream, f);
  if (c.poisoned >= 0) return;  // a tile of keys of the backward may hold both
  attention_backward(side.stream, {.q = f.q,
                                   .k = f.k,
                                   .v = f.v,
                                   .out = f.out,
                                   .lse = f.lse,
                                   .dout = numbers(side, {c.q_rows, H, c.D}, queries),
                                   .dq = side.out({c.q_rows, H, c.D}),
                                   .dk = side.remember(side.uniform({c.k_rows, G, c.D}, -0.1f, 0.1f)),
                                   .dv = side.remember(side.uniform({c.k_rows, G, c.D}, -0.1f, 0.1f)),
                                   .segments = c.segments,
                                   .kv_head = c.kv_head,
                                   .window = c.window});
}

// On a GPU, with activations of either type.
template <class F>
void expect_same_bits(F call) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU here";
  for (const DType activations : {DType::f32, DType::bf16}) {
    Side once({DeviceKind::cuda, 0}, activations, 1), again({DeviceKind::cuda, 0}, activations, 1);
    call(once);
    call(again);
    synchronize(once.stream.device);
    for (size_t n = 0; n < once.outputs.size(); ++n) {
      const Tensor a = once.outputs[n].to(Device{}), b = again.outputs[n].to(Device{});
      EXPECT_EQ(std::memcmp(a.raw(), b.raw(), a.bytes()), 0) << "output " << n;
    }
  }
}

// In bf16, in addition to the rounding of stored results (up to 2^-9, about a third of that on average):
// weights and their gradients are rounded before they are summed, which averages out, and the backward reads
// out in bf16. Measured: 1.3e-3 to 2.8e-3, 4.3e-3 for rows of 8 channels; lse 6e-8.
TEST_P(AttentionBackends, Agree) {
  expect_backends_agree([&](Side& side) { run_attention(side, GetParam()); });
}

// The kernels for other GPUs, on a Hopper.
TEST_P(AttentionBackends, AgreeByMmaSync) {
  const ScopedEnvironment chosen("WUNENG_ATTENTION", "mma_sync");
  expect_backends_agree([&](Side& side) { run_attention(side, GetParam()); });
}

TEST_P(AttentionBackends, GiveTheSameBitsAgain) {
  expect_same_bits([&](Side& side) { run_attention(side, GetParam()); });
}

INSTANTIATE_TEST_SUITE_P(
    Cases, AttentionBackends,
    testing::Values(
        AttentionCase{"one_document", 70, 70, 64, {{0, 70, 0, 0}}, {0, 0, 1}},
        AttentionCase{"a_window", 150, 150, 24, {{0, 150, 0, 0}}, {0, 0, 1}, -1, 40},
        AttentionCase{"a_window_of_two_keys", 70, 70, 16, {{0, 70, 0, 0}}, {0}, -1, 2},
        AttentionCase{"a_window_over_documents",
                      160,
                      350,
                      128,
                      {{0, 77, 0, 62}, {80, 1, 143, 127}, {85, 75, 271, 0}},
                      {0, 0, 2},
                      -1,
                      64},
        AttentionCase{"a_window_that_leaves_nothing_out", 70, 70, 64, {{0, 70, 0, 0}}, {0, 0, 1}, -1, 70},
        AttentionCase{
            "packed_with_gaps", 100, 100, 16, {{0, 33, 0, 0}, {33, 1, 33, 0}, {40, 50, 40, 0}}, {0, 1, 1}},
        AttentionCase{"queries_in_the_middle", 20, 90, 24, {{0, 9, 0, 31}, {9, 11, 45, 34}}, {0, 0}},
        AttentionCase{"wide_heads", 40, 40, 128, {{0, 40, 0, 0}}, {0}},
        AttentionCase{"widest_heads", 34, 34, 256, {{0, 34, 0, 0}}, {0}},
        AttentionCase{"a_key_head_without_queries", 10, 10, 8, {{0, 10, 0, 0}}, {0, 2}},
        // Several tiles of the bf16 kernels in both directions, and offsets at which the first or last row of
        // a warp attends to one key of a tile, or to all but one.
        AttentionCase{"long_document", 261, 261, 64, {{0, 261, 0, 0}}, {0, 1}},
        AttentionCase{"long_document_wide", 197, 197, 128, {{0, 197, 0, 0}}, {0}},
        AttentionCase{"packed_offsets_and_gaps",
                      215,
                      330,
                      64,
                      {{0, 40, 0, 88}, {40, 131, 128, 1}, {175, 1, 285, 0}, {180, 30, 289, 0}},
                      {0, 0, 1, 3}},
        AttentionCase{"packed_offsets_and_gaps_wide",
                      160,
                      350,
                      128,
                      {{0, 77, 0, 62}, {80, 1, 143, 127}, {85, 75, 271, 0}},
                      {0, 0, 2}},
        AttentionCase{"two_segments_of_one_document",
                      130,
                      200,
                      128,
                      {{70, 60, 0, 70}, {0, 70, 0, 0}, {65, 0, 140, 3}},
                      {0, 0}},
        AttentionCase{
            "one_new_token_each", 3, 300, 64, {{0, 1, 0, 99}, {1, 1, 100, 63}, {2, 1, 164, 128}}, {0, 0}},
        AttentionCase{"all_but_one_key_of_a_tile", 30, 300, 64, {{0, 10, 0, 126}, {10, 20, 140, 126}}, {0}},
        AttentionCase{"many_short_documents",
                      130,
                      130,
                      64,
                      {{0, 10, 0, 0},
                       {10, 10, 10, 0},
                       {20, 10, 20, 0},
                       {30, 10, 30, 0},
                       {40, 10, 40, 0},
                       {50, 10, 50, 0},
                       {60, 10, 60, 0},
                       {70, 10, 70, 0},
                       {80, 10, 80, 0},
                       {90, 10, 90, 0},
                       {100, 10, 100, 0},
                       {110, 10, 110, 0},
                       {120, 10, 120, 0}},
                      {0}},
        // More tiles of keys, and of queries, than a block has in shared memory at a time.
        AttentionCase{"many_keys", 40, 1000, 64, {{0, 40, 20, 900}}, {0, 0, 1}},
        AttentionCase{"many_keys_wide", 170, 700, 128, {{0, 170, 0, 530}}, {0}},
        AttentionCase{"many_queries", 400, 400, 64, {{0, 400, 0, 0}}, {0, 0}},
        AttentionCase{"nan_in_another_document",
                      230,
                      230,
                      64,
                      {{0, 70, 0, 0}, {70, 60, 70, 0}, {130, 100, 130, 0}},
                      {0, 0},
                      1},
        AttentionCase{"nan_in_another_document_wide",
                      230,
                      230,
                      128,
                      {{0, 130, 0, 0}, {130, 60, 130, 0}, {190, 40, 190, 0}},
                      {0},
                      1}),
    [](const auto& info) { return std::string(info.param.name); });

struct Wkv7Case {
  const char* name;
  int64_t T, N, D;
  std::vector<Wkv7Segment> segments;
  std::vector<int> head_state;
  int readings = 1;
  bool initial = true, dfinal = true;
  float slowest = 0;  // log of the decay
};
std::ostream& operator<<(std::ostream& out, const Wkv7Case& c) { return out << c.name; }
class Wkv7Backends : public testing::TestWithParam<Wkv7Case> {};

Tensor kept_states(Side& side, const Wkv7Case& c) {
  const int64_t count = wkv7_kept_count(c.segments, side.stream.device.kind);
  const Tensor t = Tensor::empty({count, c.N, c.D, c.D});
  std::fill_n(t.f32(), t.numel(), std::numeric_limits<float>::quiet_NaN());
  return t.to(side.stream.device);
}

// Of the states that a device stores, those that both devices store.
void compare_kept_states(Side& side, const Wkv7Case& c, const Tensor& kept) {
  const int64_t every = wkv7_kept(side.stream.device.kind), square = c.N * c.D * c.D,
                both = std::lcm(wkv7_kept(DeviceKind::cpu), wkv7_kept(DeviceKind::cuda));
  synchronize(side.stream.device);
  const Tensor host = kept.to(Device{});
  std::vector<float> states;
  const float* at = host.f32();
  for (const Wkv7Segment& s : c.segments)
    for (int64_t t = 0; t < s.count; t += every, at += square)
      if (t % both == 0) states.insert(states.end(), at, at + square);
  ASSERT_EQ(at, host.f32() + host.numel());
  side.remember(Tensor::from<float>(states, {static_cast<int64_t>(states.size())}));
}

void run_wkv7(Side& side, const Wkv7Case& c) {
  const int64_t R = static_cast<int64_t>(c.head_state.size()), S = static_cast<int64_t>(c.segments.size());
  const Shape inputs = {c.T, c.N, c.D}, readers = {c.T, R, c.D}, states = {S, c.N, c.D, c.D};
  const Tensor kappa_of_length_one = side.normal(inputs).to(Device{}).to(DType::f32).clone();
  for (int64_t i = 0; i < c.T * c.N; ++i) {
    float* x = kappa_of_length_one.f32() + i * c.D;
    float norm = 0;
    for (int64_t j = 0; j < c.D; ++j) norm += x[j] * x[j];
    for (int64_t j = 0; j < c.D; ++j) x[j] /= std::sqrt(norm);
  }
  const Tensor kappa = side.activation(kappa_of_length_one);
  const float width = 1.7f / std::sqrt(static_cast<float>(c.D));
  const Wkv7Inputs in{.log_w = side.uniform(inputs, -0.6065f, c.slowest),
                      .k = side.uniform(inputs, -width, width),
                      .v = side.normal(inputs),
                      .kappa = kappa,
                      .rate = side.uniform(inputs, 0.05f, 0.95f),
                      .segments = c.segments};
  const Wkv7StatesArgs s{.in = in,
                         .initial = c.initial ? side.normal(states, DType::f32) : Tensor(),
                         .chunk_states = kept_states(side, c),
                         .removed = side.out(inputs),
                         .final = c.dfinal ? side.out(states, DType::f32) : Tensor()};
  wkv7_states(side.stream, s);
  compare_kept_states(side, c, s.chunk_states);
  const Tensor r = side.normal(readers);
  for (const bool transposed : {false, true}) {
    const Wkv7ReadArgs args{in, s.chunk_states, s.removed, c.head_state, r, side.out(readers)};
    transposed ? wkv7_read_transposed(side.stream, args) : wkv7_read(side.stream, args);
  }
  Wkv7BackwardArgs b{.in = in,
                     .chunk_states = s.chunk_states,
                     .removed = s.removed,
                     .head_state = c.head_state,
                     .dfinal = c.dfinal ? side.normal(states, DType::f32) : Tensor(),
                     .dlog_w = side.out(inputs),
                     .dk = side.out(inputs),
                     .dv = side.out(inputs),
                     .dkappa = side.out(inputs),
                     .drate = side.out(inputs),
                     .dinitial = c.initial ? side.out(states, DType::f32) : Tensor()};
  for (int i = 0; i < c.readings; ++i)
    b.readings.push_back({side.normal(readers), side.normal(readers), i == 0 ? side.out(readers) : Tensor()});
  wkv7_backward(side.stream, b);
  wkv7_recurrent(side.stream,
                 {in, c.head_state, r, side.out(readers), s.initial, side.out(states, DType::f32)});
}

TEST_P(Wkv7Backends, Agree) {
  expect_backends_agree([&](Side& side) { run_wkv7(side, GetParam()); });
}

TEST_P(Wkv7Backends, GiveTheSameBitsAgain) {
  expect_same_bits([&](Side& side) { run_wkv7(side, GetParam()); });
}

INSTANTIATE_TEST_SUITE_P(
    Cases, Wkv7Backends,
    testing::Values(Wkv7Case{"two_documents_two_readings", 83, 2, 64, {{0, 40}, {43, 37}}, {0, 0, 1, 1}, 2},
                    Wkv7Case{"uneven_readers", 64, 2, 64, {{0, 64}}, {0, 1, 1}},
                    Wkv7Case{"a_state_head_without_readers", 50, 3, 32, {{1, 48}}, {0, 2}, 1, true, false},
                    Wkv7Case{"from_zero", 48, 1, 64, {{0, 48}}, {0}, 1, false, false},
                    Wkv7Case{"no_reading", 20, 1, 16, {{0, 20}}, {0}, 0},
                    Wkv7Case{"odd_width", 21, 2, 10, {{0, 3}, {3, 18}}, {0, 1}, 1},
                    Wkv7Case{"d128", 33, 1, 128, {{0, 33}}, {0, 0}, 2},
                    Wkv7Case{"several_kept_states", 210, 2, 64, {{3, 70}, {75, 130}}, {0, 1}, 1},
                    Wkv7Case{"fastest_decay", 90, 2, 64, {{0, 90}}, {0, 1}, 1, true, true, -0.606f},
                    Wkv7Case{"several_kept_states_d128", 150, 1, 128, {{0, 150}}, {0}, 1},
                    Wkv7Case{
                        "several_readers_and_kept_states", 210, 3, 32, {{0, 140}, {141, 69}}, {0, 0, 2}, 2},
                    // More than the emulated GPU runs at once: pieces of two stored states, whole chains.
                    Wkv7Case{"larger_pieces", 300, 8, 16, {{0, 290}}, {0, 1, 2, 3, 4, 5, 6, 7}, 1},
                    Wkv7Case{"whole_chains", 70, 33, 16, {{0, 70}}, {0, 1, 7, 32}, 1}),
    [](const auto& info) { return std::string(info.param.name); });

void run_boundary(Side& side, int64_t D) {
  const std::vector<Wkv7Segment> segments = {{0, 70}, {71, 3}};
  const std::vector<int> head_state = {0, 0, 1};
  const int64_t T = 80, N = 2, R = 3, S = 2;
  const Tensor states = side.normal({S, N, D, D}, DType::f32);
  for (const bool transposed : {false, true})
    for (const bool accumulate : {false, true})
      boundary_read(side.stream, {.states = states,
                                  .r = side.normal({T, R, D}),
                                  .y = accumulate ? side.sum({T, R, D}) : side.out({T, R, D}),
                                  .segments = segments,
                                  .head_state = head_state,
                                  .transposed = transposed,
                                  .accumulate = accumulate});
  boundary_read(side.stream, {.states = states,
                              .r = side.normal({T, R, D}),
                              .y = side.out({T, R, D}),
                              .segments = segments,
                              .head_state = head_state,
                              .weight = side.normal({R, D}),
                              .eps = 1e-2f,
                              .normed = side.out({T, R, D})});
  boundary_read_grad(side.stream, {.a = side.normal({T, R, D}),
                                   .b = side.normal({T, R, D}),
                                   .dstates = side.sum({S, N, D, D}, DType::f32),
                                   .segments = segments,
                                   .head_state = head_state});
}

// Heads of several widths, also of no multiple of a warp.
TEST(BackendParity, Boundary) {
  for (const int64_t D : {24, 80, 130}) expect_backends_agree([&](Side& side) { run_boundary(side, D); });
}

}  // namespace
}  // namespace wuneng::kernels::backend_parity_mixers_test
