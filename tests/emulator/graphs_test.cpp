// Recorded work: its memory stays its own, what cannot be recorded is refused, and a recorded step of
// generation is few launches.
#include <cuda_runtime.h>
#include <gmock/gmock.h>

#include <optional>

#include "kernels/rows.h"
#include "model/generation/recorded_steps.h"
#include "runtime/cuda/device.h"
#include "runtime/cuda/graph.h"
#include "tests/error_of.h"
#include "tests/small_config.h"

namespace wuneng::graphs_test {
namespace {

using testing::HasSubstr;

const Device kGpu{DeviceKind::cuda, 0};

Tensor numbers(float first, int64_t count = 3) {
  std::vector<float> values(count, first);
  return Tensor::from<float>(values, {count}).to(kGpu);
}
float first_of(const Tensor& x) { return x.to(Device{}).f32()[0]; }

TEST(EmulatedGraphs, RunWhenTheyAreLaunchedWithWhatIsInMemoryThen) {
  const Tensor x = numbers(1), sum = numbers(10);
  cuda::Graph graph = cuda::Graph::record(0, [&] {
    const Tensor twice = x.clone();
    twice.add(x);
    sum.add(twice);
  });
  EXPECT_EQ(graph.size(), 3);
  EXPECT_EQ(first_of(sum), 10);
  graph.launch();
  EXPECT_EQ(first_of(sum), 12);
  x.copy_from(numbers(5));
  const int64_t before = emulator::launches();
  graph.launch();
  EXPECT_EQ(emulator::launches() - before, 1);
  EXPECT_EQ(first_of(sum), 22);
}

TEST(EmulatedGraphs, KeepTheirMemory) {
  constexpr int64_t kCount = 12345;  // of a size that nothing else has
  const Tensor x = numbers(1, kCount), out = numbers(0, kCount);
  const void* inside = nullptr;
  std::optional<cuda::Graph> graph = cuda::Graph::record(0, [&] {
    for (int i = 0; i < 2; ++i) {  // the second takes the memory of the first
      const Tensor copy = x.clone();
      EXPECT_TRUE(!inside || copy.raw() == inside);
      inside = copy.raw();
      out.copy_from(copy);
    }
  });
  {
    const Tensor other = numbers(7, kCount);
    EXPECT_NE(other.raw(), inside);
    graph->launch();
    EXPECT_EQ(first_of(other), 7);
  }
  EXPECT_EQ(first_of(out), 1);
  graph.reset();
  const Tensor first = numbers(7, kCount), second = numbers(7, kCount);
  EXPECT_TRUE(first.raw() == inside || second.raw() == inside);
}

// Tables of pointers are of the recording alone: nobody has asked for them before.
TEST(EmulatedGraphs, HaveTablesOfTheirOwn) {
  const Tensor x = numbers(1), y = numbers(2), to_x = numbers(0), to_y = numbers(0);
  std::optional<cuda::Graph> graph = cuda::Graph::record(0, [&] {
    x.clone();  // work that writes to memory which is free again
    const Tensor a = x.clone(), b = y.clone();
    y.clone();
    kernels::copy_tensors(compute_stream(kGpu), {{{a, to_x}, {b, to_y}}});
  });
  for (const float value : {3.0f, 4.0f}) {
    x.copy_from(numbers(value));
    graph->launch();
    EXPECT_EQ(first_of(to_x), value);
    EXPECT_EQ(first_of(to_y), 2);
  }
}

TEST(EmulatedGraphs, RefuseWhatCannotBeRecorded) {
  const Tensor x = numbers(1);
  const auto error = [&](const std::function<void()>& work) {
    return error_of([&] { cuda::Graph::record(0, work); });
  };
  EXPECT_THAT(error([&] { x.to(Device{}); }),
              HasSubstr("a copy of 12 bytes from cuda:0 to cpu cannot be recorded"));
  EXPECT_THAT(error([&] { x.copy_from(Tensor::zeros({3})); }), HasSubstr("from cpu to cuda:0"));
  EXPECT_THAT(error([&] { synchronize(kGpu); }), HasSubstr("stream is capturing"));
  EXPECT_EQ(error([&] { x.zero(); }), "no error");  // the stream is as before
  EXPECT_EQ(first_of(x), 1);
}

// Of a model of two layers.
TEST(EmulatedGraphs, AStepOfGenerationIsAFewLaunches) {
  for (const char* mixer : {"attention", "wuneng", "rwkv7"}) {
    Decoder model(small_config(mixer, 50), Placement{.device = kGpu}, DType::f32);
    model.initialize_random(1);
    SequenceCache cache = model.make_cache(2, 20);
    RecordedSteps steps(model, cache);
    const std::vector<int64_t> slots = {1, 0};
    const auto launches_of = [](const std::function<void()>& work) {
      const int64_t before = emulator::launches();
      work();
      return emulator::launches() - before;
    };
    const MicroBatch batch{Tensor::from<int32_t>({3, 4}, {2}), Tensor(), {0, 1, 2}};
    const auto plain = [&] { model.logits(model.extend(batch, slots, cache)).to(Device{}); };
    const auto recorded = [&] { steps.step({3, 4}, slots).logits.to(Device{}); };
    plain();
    const int64_t kernels = launches_of(plain);
    recorded();
    recorded();
    const int64_t launched = launches_of(recorded);
    // Tokens, where they are, the graph, and the logits back.
    EXPECT_EQ(launched, 4) << mixer;
    EXPECT_GE(kernels, 40) << mixer;
    RecordProperty(mixer, static_cast<int>(kernels));
  }
}

}  // namespace
}  // namespace wuneng::graphs_test
