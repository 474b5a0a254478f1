// A loss whose logits are rounded to bf16 on a GPU (loss.bf16_logits) against the CPU's in f32: how far it
// and its gradients are from those of the same hidden states. docs/gpu.md has the numbers.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "model/objectives/vocabulary_loss.h"
#include "tests/error_of.h"

namespace wuneng::bf16_logits_test {
namespace {

const Device kGpu{DeviceKind::cuda, 0};
constexpr int64_t T = 48, d = 64, V = 1500;

struct Found {
  double loss, divergence, ce;
  Tensor dhidden, dhead;  // f32, on the host
};

// Students and a teacher near them, with logits between -12 and 12.
class Bf16Logits : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU here";
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    const auto fill = [&](Shape shape, float scale) {
      const Tensor t = Tensor::empty(std::move(shape));
      for (int64_t i = 0; i < t.numel(); ++i) t.f32()[i] = scale * normal(random);
      return t.to(DType::bf16);
    };
    hidden_ = fill({T, d}, 1);
    head_ = fill({V, d}, 0.35f);
    teacher_ = Tensor::empty({T, V});
    std::vector<int32_t> labels;
    for (int64_t t = 0; t < T; ++t) labels.push_back(static_cast<int32_t>(random() % V));
    labels_ = Tensor::from(labels, {T});
    const Tensor h = hidden_.to(DType::f32), w = head_.to(DType::f32);
    for (int64_t t = 0; t < T; ++t)
      for (int64_t v = 0; v < V; ++v) {
        float sum = 0.3f * normal(random);
        for (int64_t i = 0; i < d; ++i) sum += h.f32()[t * d + i] * w.f32()[v * d + i];
        teacher_.f32()[t * V + v] = sum;
      }
  }

  Found loss_on(Device device, bool rounded) const {
    const DType type = device.kind == DeviceKind::cuda ? DType::bf16 : DType::f32;
    Parameter head;
    head.held = head.owned = {0, V};
    head.var = Var(head_.to(type).to(device), true, DType::f32);
    Tape tape(compute_stream(device));
    const Var hidden(hidden_.to(type).to(device), true);
    const Tensor sums = Tensor::zeros({3}, DType::f64, device);
    const Var loss =
        vocabulary_loss(tape, {}, hidden, &head, labels_, {.logits = {{{0, T}, {0, V}, teacher_.to(device)}}},
                        {.ce_weight = 0.5f, .bf16_logits = rounded}, T, sums);
    loss.set_grad(Tensor::from<float>({1.0f}, {1}));
    tape.backward();
    const Tensor host = sums.to(Device{});
    return {loss.value().to(Device{}).data<double>()[0], host.data<double>()[0] / T,
            host.data<double>()[1] / T, hidden.grad().to(Device{}).to(DType::f32),
            head.var.grad().to(Device{})};
  }

  static double distance(const Tensor& a, const Tensor& b) {
    double error = 0, norm = 0;
    for (int64_t i = 0; i < a.numel(); ++i) {
      error += std::pow(double(a.f32()[i]) - b.f32()[i], 2);
      norm += std::pow(double(b.f32()[i]), 2);
    }
    return std::sqrt(error / norm);
  }

  Tensor hidden_, head_, teacher_, labels_;
};

TEST_F(Bf16Logits, AddLittleToWhatBf16GradientsLose) {
  const Found exact = loss_on({}, false), wide = loss_on(kGpu, false), narrow = loss_on(kGpu, true);
  const auto report = [&](const char* what, const Found& found) {
    std::printf("%s: loss %.3g, divergence %.3g of %.3g, CE %.3g of %.3g; dhidden %.3g, dhead %.3g\n", what,
                std::abs(found.loss - exact.loss), std::abs(found.divergence - exact.divergence),
                exact.divergence, std::abs(found.ce - exact.ce), exact.ce,
                distance(found.dhidden, exact.dhidden), distance(found.dhead, exact.dhead));
  };
  report("logits in f32 ", wide);
  report("logits in bf16", narrow);
  EXPECT_NEAR(wide.loss, exact.loss, 1e-5);
  EXPECT_NEAR(narrow.loss, exact.loss, 3e-3);
  EXPECT_NE(narrow.loss, wide.loss);
  EXPECT_LT(distance(narrow.dhidden, exact.dhidden), 2e-2);
  EXPECT_LT(distance(narrow.dhead, exact.dhead), 2e-2);
}

TEST_F(Bf16Logits, AreRefusedWithoutBf16Activations) {
  const std::string error = error_of([&] { loss_on({}, true); });
  EXPECT_NE(error.find("loss.bf16_logits: expected activations in bf16, found f32 on cpu"), std::string::npos)
      << error;
}

}  // namespace
}  // namespace wuneng::bf16_logits_test
