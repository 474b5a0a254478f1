// How many kernels, products, copies and fills a training step launches, for docs/gpu.md: the host takes some
// 5 us for each. A number that grows must be in the table there, with its reason.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include "model/decoder.h"
#include "parallel/gradients.h"
#include "parallel/optimizer.h"
#include "runtime/device_memory.h"
#include "runtime/host_copy.h"

namespace wuneng::launches_test {
namespace {

struct Launches {
  int64_t forward, backward;
  Launches operator-(const Launches& other) const {
    return {forward - other.forward, backward - other.backward};
  }
};

constexpr int64_t kChunk = 8;

ModelConfig config_of(const std::string& student, int64_t layers) {
  ModelConfig c{.hidden_size = 128,
                .intermediate_size = 160,
                .num_layers = layers,
                .num_heads = 2,
                .num_kv_heads = 1,
                .head_dim = 64,
                .vocab_size = 50,
                .rope_theta = 100};
  if (student == "attention") {
    c.set_mixer(student);
  } else {
    c.set_mixer("wuneng", student);
    c.options["wuneng"]["chunk"] = kChunk;
  }
  return c;
}

// Of one micro-batch with a document of `chunks` chunks, gradients of weights being there already.
Launches of_model(const std::string& student, int64_t layers, int64_t chunks, bool record) {
  const Device gpu{DeviceKind::cuda, 0};
  const int64_t T = chunks * kChunk;
  Decoder model(config_of(student, layers),
                Placement{.device = gpu, .activations = DType::bf16, .record = record}, DType::bf16);
  model.initialize_random(1);
  const MicroBatch batch{Tensor::zeros({T}, DType::i32), Tensor(), {0, T}};
  const Tensor gradient = Tensor::zeros({T, 128}, DType::bf16, gpu);
  Launches counted{};
  for (int pass = 0; pass < (record ? 4 : 2); ++pass) {  // earlier ones upload tables, and record
    Tape tape(model.stream());
    const int64_t begin = emulator::launches();
    const Var hidden = model.forward(tape, batch, {}).hidden;
    const int64_t middle = emulator::launches();
    hidden.set_grad(gradient);
    tape.backward();
    counted = {middle - begin, emulator::launches() - middle};
  }
  return counted;
}

// Of one layer.
Launches of_layer(const std::string& student, int64_t chunks, bool record = false) {
  return of_model(student, 2, chunks, record) - of_model(student, 1, chunks, record);
}

TEST(EmulatedLaunches, AreAsDocumented) {
  const auto expect = [](const char* what, const Launches& found, int64_t forward, int64_t backward) {
    EXPECT_EQ(found.forward, forward) << what;
    EXPECT_EQ(found.backward, backward) << what;
  };
  expect("a plain layer", of_layer("attention", 1), 12, 27);
  expect("a layer of lean", of_layer("lean", 1), 39, 73);
  const Launches three = of_layer("full", 3);
  expect("a layer of full with three chunk steps", three, 68, 134);
  expect("a further chunk step", of_layer("full", 4) - three, 10, 20);
  for (const int64_t chunks : {2, 4})
    expect("a layer of full whose chunk steps are a CUDA graph", of_layer("full", chunks, true), 42, 80);
}

// A gradient's norm, clipping and the update are queued before the host knows the norm.
TEST(EmulatedLaunches, AnUpdateDoesNotWaitForTheHost) {
  const Device gpu{DeviceKind::cuda, 0};
  Parameter p;
  p.name = "w";
  p.global_shape = {2};
  p.held = p.owned = {0, 2};
  p.var = Var(Tensor::from<float>({1, 2}, {2}).to(gpu), true);
  const GradientSums sums({&p}, {});
  Optimizer optimizer({&p}, {}, compute_stream(gpu));
  for (int step = 0; step < 2; ++step) {
    p.var.grad().copy_from(Tensor::from<float>({3, 4}, {2}));
    const int64_t waits = emulator::waits(), copies = emulator::pageable_copies();
    const Tensor squared_norm = sums.squared_norm();
    const HostCopy squares(squared_norm);
    optimizer.step(1e-2, clip_scale(squared_norm, 1));
    EXPECT_TRUE(step == 0 || emulator::waits() == waits);  // the first one makes its tables
    EXPECT_EQ(emulator::pageable_copies(), copies);
    EXPECT_EQ(squares.read("test").data<double>()[0], 25);
    EXPECT_NEAR(optimizer.states()[0].m.to(Device{}).f32()[0], step == 0 ? 0.06 : 0.114, 1e-6);
  }
}

}  // namespace
}  // namespace wuneng::launches_test
