// The GPU's kernels at the sizes of real models, in bf16: a line of JSON each, with milliseconds (the median
// of several runs, the host waiting once a run), bytes that must move and FLOPs. bench_gpu.py runs it beside
// PyTorch. usage: bench_gpu [cuda | cpu] [small]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <random>

#include "kernels/adamw.h"
#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "kernels/swiglu.h"
#include "kernels/wkv7.h"
#include "model/objectives/vocabulary_loss.h"

namespace wuneng {
namespace {

using namespace kernels;

class Bench {
 public:
  Bench(Device device, bool small) : small(small), stream(compute_stream(device)) {}

  // One value for real runs and one for a machine that emulates a GPU.
  int64_t size(int64_t real, int64_t small_one) const { return small ? small_one : real; }

  Tensor normal(Shape shape, float scale = 1) {
    return make(std::move(shape),
                [&, d = std::normal_distribution<float>(0, scale)]() mutable { return d(random_); });
  }
  Tensor uniform(Shape shape, float low, float high) {
    return make(std::move(shape),
                [&, d = std::uniform_real_distribution<float>(low, high)]() mutable { return d(random_); });
  }
  Tensor empty(Shape shape) const { return Tensor::empty(std::move(shape), type(), stream.device); }
  Tensor f32(Shape shape) const { return Tensor::zeros(std::move(shape), DType::f32, stream.device); }
  DType type() const { return stream.device.kind == DeviceKind::cuda ? DType::bf16 : DType::f32; }

  void measure(const std::string& name, const std::string& shape, double bytes, double flops,
               const std::function<void()>& run) const {
    std::vector<double> times;
    const int rounds = small ? 1 : 12, warm = small ? 0 : 3;
    for (int i = 0; i < rounds + warm; ++i) {
      synchronize(stream.device);
      const auto begin = std::chrono::steady_clock::now();
      run();
      synchronize(stream.device);
      const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - begin;
      if (i >= warm) times.push_back(time.count());
    }
    std::sort(times.begin(), times.end());
    fmt::print(
        "{{\"name\": \"{}\", \"shape\": \"{}\", \"ms\": {:.4f}, \"bytes\": {:.4g}, \"flops\": {:.4g}}}\n",
        name, shape, times[times.size() / 2], bytes, flops);
    std::fflush(stdout);
  }

  const bool small;
  const Stream stream;

 private:
  // A million different numbers, over and over: drawing more would take longer than the benchmarks.
  template <class F>
  Tensor make(Shape shape, F next) {
    const Tensor host = Tensor::empty(shape);
    const int64_t drawn = std::min<int64_t>(host.numel(), 1 << 20);
    for (int64_t i = 0; i < drawn; ++i) host.f32()[i] = next();
    for (int64_t i = drawn; i < host.numel(); ++i) host.f32()[i] = host.f32()[i - drawn];
    return host.to(type()).to(stream.device);
  }
  std::mt19937 random_{1};
};

void products(Bench& b) {
  const int64_t n = b.size(8192, 64);
  const Tensor x = b.normal({n, n}), w = b.normal({n, n}), y = b.empty({n, n});
  b.measure("product", fmt::format("{0} x {0} x {0}", n), 6.0 * n * n, 2.0 * n * n * n,
            [&] { matmul(b.stream, {.a = x, .b = w, .c = y, .transpose_b = true}); });
  const Tensor base = b.normal({n, n}), bias = b.normal({n}), dw = b.f32({n, n}), sums = b.f32({n});
  b.measure("product with a residual", fmt::format("{0} x {0} x {0}", n), 8.0 * n * n, 2.0 * n * n * n,
            [&] { matmul(b.stream, {.a = x, .b = w, .c = y, .transpose_b = true, .base = base}); });
  b.measure("product with a bias", fmt::format("{0} x {0} x {0}", n), 6.0 * n * n, 2.0 * n * n * n,
            [&] { matmul(b.stream, {.a = x, .b = w, .c = y, .transpose_b = true, .bias = bias}); });
  b.measure("weight's and bias's gradients", fmt::format("{0} x {0} x {0}", n), 12.0 * n * n, 2.0 * n * n * n,
            [&] {
              matmul(b.stream, {.a = x, .b = w, .c = dw, .transpose_a = true, .accumulate = 1, .sums = sums});
            });
}

void attention(Bench& b, int64_t D) {
  const int64_t B = b.size(4, 1), L = b.size(4096, 100), H = b.size(4096 / D, 2), T = B * L;
  AttentionForwardArgs f{.q = b.normal({T, H, D}),
                         .k = b.normal({T, H, D}),
                         .v = b.normal({T, H, D}),
                         .out = b.empty({T, H, D}),
                         .lse = b.f32({T, H})};
  for (int64_t i = 0; i < B; ++i) f.segments.push_back({i * L, L, i * L, 0});
  for (int64_t h = 0; h < H; ++h) f.kv_head.push_back(static_cast<int>(h));
  const std::string shape = fmt::format("B {} T {} H {} D {}", B, L, H, D);
  const double flops = 2.0 * double(B * H) * double(L * L) * D, bytes = 8.0 * double(T * H * D);
  b.measure("attention forward", shape, bytes, flops, [&] { attention_forward(b.stream, f); });
  const Tensor dout = b.normal({T, H, D}), dq = b.empty({T, H, D}), dk = b.empty({T, H, D}),
               dv = b.empty({T, H, D});
  b.measure("attention backward", shape, 2 * bytes, 2.5 * flops, [&] {
    dk.zero(), dv.zero();
    attention_backward(b.stream, {.q = f.q,
                                  .k = f.k,
                                  .v = f.v,
                                  .out = f.out,
                                  .lse = f.lse,
                                  .dout = dout,
                                  .dq = dq,
                                  .dk = dk,
                                  .dv = dv,
                                  .segments = f.segments,
                                  .kv_head = f.kv_head});
  });
}

// B sequences, N state heads and R readers.
void wkv7(Bench& b, int64_t B, int64_t N, int64_t R, int64_t D) {
  const int64_t L = b.size(4096, 70), T = B * L;
  const float width = 1 / std::sqrt(static_cast<float>(D));
  Wkv7Inputs in{.log_w = b.uniform({T, N, D}, -0.6065f, 0),
                .k = b.normal({T, N, D}, width),
                .v = b.normal({T, N, D}),
                .kappa = b.normal({T, N, D}, width),
                .rate = b.uniform({T, N, D}, 0, 1)};
  std::vector<int> head_state;
  for (int64_t i = 0; i < B; ++i) in.segments.push_back({i * L, L});
  for (int64_t h = 0; h < R; ++h) head_state.push_back(static_cast<int>(h * N / R));
  const auto fresh = [&] { return b.empty({T, N, D}); };
  const Tensor kept = b.f32({wkv7_kept_count(in.segments, b.stream.device.kind), N, D, D}), removed = fresh(),
               r = b.normal({T, R, D}), y = b.empty({T, R, D}), dr = b.empty({T, R, D}),
               dy = b.normal({T, R, D});
  Wkv7BackwardArgs back{.in = in, .chunk_states = kept, .removed = removed, .head_state = head_state};
  back.readings = {{dy, r, dr}};
  back.dlog_w = fresh(), back.dk = fresh(), back.dv = fresh(), back.dkappa = fresh(), back.drate = fresh();
  const std::string shape = fmt::format("B {} T {} H {} readers {} D {}", B, L, N, R, D);
  // Bytes of a tensor's channels of states and of readers, FLOPs of one product of either with the state.
  const double states = 2.0 * double(T * N * D), readers = 2.0 * double(T * R * D), flops = states * D,
               reading_flops = readers * D;
  const auto forward = [&] {
    wkv7_states(b.stream, {.in = in, .chunk_states = kept, .removed = removed});
    wkv7_read(b.stream, {in, kept, removed, head_state, r, y});
  };
  const auto backward = [&] { wkv7_backward(b.stream, back); };
  const double in_bytes = 5 * states + 2 * readers, out_bytes = 10 * states + 3 * readers;
  const double in_flops = 3 * flops + reading_flops, out_flops = 5 * flops + 3 * reading_flops;
  b.measure("wkv7 forward", shape, in_bytes, in_flops, forward);
  b.measure("wkv7 backward", shape, out_bytes, out_flops, backward);
  b.measure("wkv7 forward and backward", shape, in_bytes + out_bytes, in_flops + out_flops,
            [&] { forward(), backward(); });
}

void losses(Bench& b) {
  const int64_t T = b.size(8192, 20), d = b.size(3584, 32), V = b.size(152064, 300);
  Parameter head;
  head.held = head.owned = {0, V};
  head.var = Var(b.normal({V, d}, 0.02f), true, DType::f32);
  const Tensor hidden = b.normal({T, d}), teacher = b.normal({T, V});
  const Tensor labels = Tensor::zeros({T}, DType::i32);
  const double flops = 6.0 * double(T) * double(V * d);
  for (const int64_t chunk : {128, 1024, 2048})
    b.measure("linear and kl, forward and backward",
              fmt::format("T {} d {} V {}, {} tokens together", T, d, V, chunk), 0, flops, [&] {
                Tape tape(b.stream);
                const Var h(hidden, true);
                const Var loss = vocabulary_loss(
                    tape, Comm(), h, &head, labels, {.logits = {{{0, T}, {0, V}, teacher}}},
                    {.chunk_tokens = chunk}, double(T), Tensor::zeros({3}, DType::f64, b.stream.device));
                loss.set_grad(Tensor::from<float>({1.0f}, {1}));
                tape.backward();
              });
}

void passes(Bench& b) {
  const int64_t T = b.size(16384, 20), d = b.size(3584, 64), n = T * d;
  const Tensor x = b.normal({T, d}), w = b.normal({d}), y = b.empty({T, d}), z = b.normal({T, d});
  const std::string shape = fmt::format("T {} d {}", T, d);
  b.measure("rms_norm", shape, 4.0 * double(n), 0,
            [&] { rms_norm(b.stream, {.x = x, .weight = w, .eps = 1e-6f, .y = y}); });
  const Tensor pair = b.normal({T, 2 * d}), dpair = b.empty({T, 2 * d});
  b.measure("swiglu", shape, 6.0 * double(n), 0, [&] { swiglu(b.stream, {.x = pair, .y = y}); });
  const Tensor u = b.normal({T, d}), scales = b.f32({d});
  b.measure("rms_norm backward", shape, 8.0 * double(n), 0, [&] {
    rms_norm_backward(b.stream,
                      {.x = x, .weight = w, .eps = 1e-6f, .dy = z, .dx = {y, u}, .dweight = scales});
  });
  b.measure("swiglu backward", shape, 10.0 * double(n), 0, [&] {
    swiglu_backward(b.stream, {.x = pair, .dy = u, .dx = {dpair, {}}});
  });
  const int64_t many = b.size(500'000'000, 70'000);
  AdamwArgs args{.lr = 1e-4f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .gradient_scale = {}, .step = 10};
  for (int i = 0; i < 4; ++i)
    args.tensors.push_back({.master = b.f32({many / 4}),
                            .m = b.f32({many / 4}),
                            .v = b.f32({many / 4}),
                            .gradient = b.f32({many / 4}),
                            .stored = b.type() == DType::bf16 ? b.empty({many / 4}) : Tensor(),
                            .decay = 0.1f});
  b.measure("adamw", fmt::format("{} elements", many), 34.0 * double(many), 0,
            [&] { adamw(b.stream, args); });
}

}  // namespace
}  // namespace wuneng

int main(int argc, char** argv) {
  using namespace wuneng;
  Bench b(parse_device(argc > 1 ? argv[1] : "cuda", 0), argc > 2 && std::string(argv[2]) == "small");
  products(b);
  for (const int64_t D : {64, 128}) attention(b, D);
  for (const int64_t D : {64, 128}) wkv7(b, b.size(8, 1), b.size(4096 / D, 1), b.size(4096 / D, 1), D);
  wkv7(b, 1, b.size(16, 1), b.size(16, 1), 128);  // one packed sequence
  wkv7(b, 1, b.size(4, 1), b.size(28, 2), 128);   // of Qwen2.5-7B
  losses(b);
  passes(b);
}
