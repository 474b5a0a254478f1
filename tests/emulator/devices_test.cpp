// What the host code must heed of CUDA's devices and errors: a tolerated error is no later call's, and
// memory, streams and kernels are of the calling thread's current device.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <thread>

#include "runtime/cuda/device.h"
#include "runtime/staged.h"
#include "tests/error_of.h"

namespace wuneng::devices_test {
namespace {

constexpr int64_t kMega = 1 << 20;

// A kernel and its launch check.
void run_kernel(Device gpu) {
  const Tensor one = Tensor::from<float>({1, 2}, {2}).to(gpu), other = one.clone();
  cuda::add(one, other);
  EXPECT_EQ(other.to(Device{}).f32()[1], 4);
}

class EmulatedDevices : public testing::Test {
 protected:
  void TearDown() override { emulator::limit_memory(-1, -1); }
  const Device gpu{DeviceKind::cuda, 0};
};

TEST_F(EmulatedDevices, AFullGpuIsNotTheNextKernelsError) {
  run_kernel(gpu);
  { const Tensor cached = Tensor::empty({40 * kMega}, DType::u8, gpu); }
  emulator::limit_memory(100 * kMega, -1);  // of which earlier tests' cached blocks hold some
  std::string error;
  std::vector<Tensor> held;
  while (error.empty() || error == "no error")
    error = error_of([&] { held.push_back(Tensor::empty({9 * kMega}, DType::u8, gpu)); });
  EXPECT_NE(error.find("out of memory: 9437184 bytes requested"), std::string::npos) << error;
  emulator::limit_memory(-1, -1);
  run_kernel(gpu);
}

TEST_F(EmulatedDevices, MemoryOfTheCacheIsReturnedBeforeAnError) {
  run_kernel(gpu);  // which takes the memory of its uploads
  emulator::limit_memory(-1, 64 * kMega);
  for (const int64_t bytes : {30 * kMega, 40 * kMega}) {  // the second fits once the first has been freed
    const Tensor tensor = Tensor::zeros({bytes}, DType::u8, gpu);
    const Staged staged(tensor, true, "test");
    EXPECT_EQ(staged.host().data<uint8_t>()[bytes - 1], 0);
  }
  run_kernel(gpu);
}

// Without a wait of the host; and what is uploaded may change at once.
TEST_F(EmulatedDevices, SmallUploadsPassThroughPinnedMemory) {
  const int64_t before = emulator::pageable_copies();
  std::vector<Tensor> uploaded;
  const Tensor source = Tensor::empty({100'001}, DType::u8);
  constexpr int kCount = 45;  // twice the ring
  for (int i = 0; i < kCount; ++i) {
    std::memset(source.raw(), i, source.bytes());
    uploaded.push_back(source.to(gpu));
  }
  EXPECT_EQ(emulator::pageable_copies(), before);
  for (int i = 0; i < kCount; ++i) EXPECT_EQ(uploaded[i].to(Device{}).data<uint8_t>()[source.numel() - 1], i);
}

TEST_F(EmulatedDevices, KernelsAreLoadedAtTheStartOnlyForMessages) {
  unsetenv("CUDA_MODULE_LOADING");
  cuda::set_driver_environment(false);
  EXPECT_EQ(std::getenv("CUDA_MODULE_LOADING"), nullptr);
  EXPECT_STREQ(std::getenv("NCCL_RUNTIME_CONNECT"), "0");
  cuda::set_driver_environment(true);
  EXPECT_STREQ(std::getenv("CUDA_MODULE_LOADING"), "EAGER");
}

// What the emulator itself must notice.
TEST_F(EmulatedDevices, PinnedMemoryThatIsRewrittenBeforeItsCopyEndsTheProcess) {
  const auto rewrite = [] {
    cudaStream_t stream = nullptr;
    void *to = nullptr, *from = nullptr;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaMalloc(&to, 4);
    cudaHostAlloc(&from, 4, cudaHostAllocPortable);
    cudaMemcpyAsync(to, from, 4, cudaMemcpyDefault, stream);
    std::memset(from, 1, 4);
    cudaStreamSynchronize(stream);
  };
  EXPECT_DEATH(rewrite(), "4 bytes of pinned memory were rewritten before their copy ran");
}

TEST_F(EmulatedDevices, EachThreadUsesTheDeviceOfItsTensors) {
  setenv("WUNENG_EMULATOR_GPU_PER_RANK", "1", 1);
  setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "3", 1);
  run_kernel({DeviceKind::cuda, 1});
  run_kernel({DeviceKind::cuda, 2});
  std::thread([] {
    const Device second{DeviceKind::cuda, 1};
    const Tensor tensor = Tensor::empty({7 * kMega}, DType::u8, second);
    cudaPointerAttributes found = {};
    ASSERT_EQ(cudaPointerGetAttributes(&found, tensor.raw()), cudaSuccess);
    EXPECT_EQ(found.device, 1);
    run_kernel(second);
  }).join();
  run_kernel({DeviceKind::cuda, 1});
  unsetenv("WUNENG_EMULATOR_GPU_PER_RANK");
  unsetenv("OMPI_COMM_WORLD_LOCAL_SIZE");
}

TEST_F(EmulatedDevices, PersistentKernelsLeaveMultiprocessorsFree) {
  const int all = cuda::multiprocessors(0);
  EXPECT_EQ(cuda::persistent_blocks(0), all);
  cuda::keep_free(0, 1);
  EXPECT_EQ(cuda::persistent_blocks(0), all - 1);
  cuda::keep_free(0, 1000);
  EXPECT_EQ(cuda::persistent_blocks(0), all - all / 2);
}

}  // namespace
}  // namespace wuneng::devices_test
