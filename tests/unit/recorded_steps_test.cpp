// Generation on a GPU, cuda::Graph and all, against the CPU's.
#include "model/generation/recorded_steps.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "model/generation/narrow_weights.h"
#include "tests/small_config.h"

namespace wuneng::recorded_steps_test {
namespace {

constexpr int64_t kVocab = 50, kSlots = 4, kCapacity = 40;
const Device kGpu{DeviceKind::cuda, 0};

// A model on one device, with a cache that is extended token by token.
class Generator {
 public:
  Generator(const std::string& mixer, DType weights, Device device, DType activations = DType::f32)
      : model_(config(mixer),
               Placement{.device = device,
                         .activations = device.kind == DeviceKind::cpu ? DType::f32 : activations},
               weights == DType::bf16 ? DType::bf16 : DType::f32),
        cache_(model_.make_cache(kSlots, kCapacity)) {
    std::mt19937 random(3);
    std::normal_distribution<float> normal(0, 1);
    for (const Parameter* p : model_.parameters()) {
      const Tensor values = Tensor::empty(p->var.shape());
      const float size = values.ndim() >= 2 ? 2 / std::sqrt(float(values.shape().back())) : 0.5f;
      for (int64_t i = 0; i < values.numel(); ++i) values.f32()[i] = size * normal(random);
      p->var.value().copy_from(values.to(p->var.value().dtype()));
    }
    if (weights == DType::i8 || weights == DType::f16) narrow_weights(model_, weights);
    if (device.kind == DeviceKind::cuda) recorded_.emplace(model_, cache_);
  }

  // Logits [n, vocab] of a token of each sequence.
  Tensor extend(const std::vector<int32_t>& tokens, const std::vector<int64_t>& slots) {
    std::vector<int64_t> documents = {0};
    for (size_t i = 0; i < slots.size(); ++i) documents.push_back(documents.back() + 1);
    if (recorded_ && recorded_->takes(documents, slots)) {
      ++recorded_steps;
      return recorded_->step(tokens, slots).logits.to(Device{});
    }
    const MicroBatch batch{Tensor::from(tokens, {std::ssize(tokens)}), Tensor(), documents};
    return model_.logits(model_.extend(batch, slots, cache_)).to(Device{});
  }
  void clear(int64_t slot) { cache_.clear(slot); }
  int64_t length(int64_t slot) const { return cache_.length(slot); }

  int recorded_steps = 0;

 private:
  static ModelConfig config(const std::string& mixer) {
    ModelConfig c = small_config(mixer, kVocab);
    if (mixer == "wuneng") c.options[mixer]["chunk"] = int64_t{5};
    return c;
  }
  Decoder model_;
  SequenceCache cache_;
  std::optional<RecordedSteps> recorded_;
};

// Sequences come and go, in changing order, each at a place of its own.
void compare(Generator& cpu, Generator& gpu, float tolerance) {
  std::mt19937 random(5);
  const auto draw = [&](int64_t n) { return static_cast<int64_t>(random() % n); };
  double error = 0, size = 0;
  for (int step = 0; step < 30; ++step) {
    std::vector<int64_t> slots;
    std::vector<int32_t> tokens;
    const int64_t n = step < 6 ? 1 : 1 + draw(kSlots);
    while (std::ssize(slots) < n) {
      const int64_t slot = draw(kSlots);
      if (std::find(slots.begin(), slots.end(), slot) != slots.end()) continue;
      if (cpu.length(slot) == kCapacity || draw(25) == 0) cpu.clear(slot), gpu.clear(slot);
      slots.push_back(slot);
      tokens.push_back(static_cast<int32_t>(draw(kVocab)));
    }
    const Tensor expected = cpu.extend(tokens, slots), found = gpu.extend(tokens, slots);
    ASSERT_EQ(found.shape(), expected.shape());
    for (int64_t i = 0; i < expected.numel(); ++i) {
      error += std::pow(expected.f32()[i] - found.f32()[i], 2);
      size += std::pow(expected.f32()[i], 2);
      ASSERT_NEAR(found.f32()[i], expected.f32()[i], 100 * tolerance) << "step " << step << ", " << i;
    }
  }
  EXPECT_LE(std::sqrt(error), tolerance * std::sqrt(size));
  EXPECT_GT(gpu.recorded_steps, 12);
}

class RecordedStepsOf : public testing::TestWithParam<std::pair<const char*, DType>> {};

TEST_P(RecordedStepsOf, GiveTheLogitsOfTheCpu) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU here";
  const auto [mixer, weights] = GetParam();
  Generator cpu(mixer, weights, {}), gpu(mixer, weights, kGpu);
  compare(cpu, gpu, 2e-5f);
}

INSTANTIATE_TEST_SUITE_P(Models, RecordedStepsOf,
                         testing::Values(std::pair{"attention", DType::f32}, std::pair{"wuneng", DType::f32},
                                         std::pair{"rwkv7", DType::f32}, std::pair{"wuneng", DType::bf16},
                                         std::pair{"wuneng", DType::f16}, std::pair{"wuneng", DType::i8}),
                         [](const auto& info) {
                           return std::string(info.param.first) + "_" +
                                  std::string(to_string(info.param.second));
                         });

TEST(RecordedSteps, GiveTheLogitsOfTheCpuWithActivationsInBf16) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU here";
  Generator cpu("wuneng", DType::bf16, {}), gpu("wuneng", DType::bf16, kGpu, DType::bf16);
  compare(cpu, gpu, 3e-2f);
}

}  // namespace
}  // namespace wuneng::recorded_steps_test
