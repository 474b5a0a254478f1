// main of the MPI tests: every rank runs the same tests; rank 0 prints, other ranks print failures; all
// return the same code.
#include <gtest/gtest.h>

#include "tests/mpi/gpus.h"

namespace {

// Failures alone, with the rank's name.
class Quiet : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (result.failed())
      std::fprintf(stderr, "%s: %s:%d: %s\n", wuneng::rank_name().c_str(),
                   result.file_name() ? result.file_name() : "?", result.line_number(), result.message());
  }
};

}  // namespace

int main(int argc, char** argv) {
  wuneng::Runtime runtime(&argc, &argv);
  testing::InitGoogleTest(&argc, argv);
  const wuneng::Comm world = wuneng::Comm::world();
  if (world.rank() != 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new Quiet);
  }
  if (wuneng::cuda_device_count() > 0 && wuneng::gpus_of_their_own())
    wuneng::reserve_gpu_memory(world, wuneng::of_this_rank({wuneng::DeviceKind::cuda, 0}), 0.5);
  const int failed = RUN_ALL_TESTS();
  return world.all_reduce(static_cast<double>(failed), wuneng::Reduce::max, "test result") > 0;
}
