// Saving a checkpoint against a raw write and fsync of the same bytes, in the same run on the same disk; and
// what a step waits for a save in the background.
//
// usage: bench_checkpoint [MEGABYTES [DIRECTORY]]   (default 765, the temporary directory)
#include <fcntl.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>

#include "runtime/checkpoint/reader.h"
#include "runtime/checkpoint/writer.h"

namespace {

using namespace wuneng;
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

template <class F>
double seconds_of(const F& work) {
  const auto begin = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t megabytes = argc > 1 ? std::atoll(argv[1]) : 765, tensors = 60;
  const std::string directory =
      (argc > 2 ? std::string(argv[2]) : fs::temp_directory_path().string()) + "/wuneng_bench_checkpoint";
  fs::remove_all(directory);
  fs::create_directories(directory);
  std::vector<CheckpointPiece> pieces;
  const int64_t width = 1024, rows = megabytes * 1000000 / 4 / width / tensors;
  for (int64_t i = 0; i < tensors; ++i) {
    const Tensor t = Tensor::empty({rows, width});
    for (int64_t k = 0; k < t.numel(); ++k) t.f32()[k] = static_cast<float>(k * 7919 % 104729 + i);
    pieces.push_back({fmt::format("model/layer.{}", i), t.shape(), {0, 0}, t});
  }
  CheckpointOptions options;
  options.root = directory + "/checkpoints";
  options.keep = 1;
  options.run = "bench";
  options.writer = "bench";
  std::vector<double> raw, saved, begun, captured, whole;
  for (int64_t repeat = 0; repeat < 5; ++repeat) {
    raw.push_back(seconds_of([&] {
      FileDescriptor file(directory + "/raw", O_WRONLY | O_CREAT | O_TRUNC);
      int64_t at = 0;
      for (const CheckpointPiece& p : pieces) {
        file.write(at, p.data.raw(), p.data.bytes());
        at += p.data.bytes();
      }
      file.sync();
      file.close();
    }));
    fs::remove(directory + "/raw");
    CheckpointWriter sync(Comm(), options);
    saved.push_back(seconds_of([&] { sync.begin(1 + 2 * repeat, pieces, {}); }));
    CheckpointOptions background = options;
    background.background = true;
    CheckpointWriter writer(Comm(), background);
    whole.push_back(seconds_of([&] {
      begun.push_back(seconds_of([&] { writer.begin(2 + 2 * repeat, pieces, {}); }));
      captured.push_back(seconds_of([&] { writer.wait_until_captured(); }));
      writer.finish();
    }));
  }
  std::vector<double> reading;
  for (int repeat = 0; repeat < 3; ++repeat)
    reading.push_back(seconds_of([&] { CheckpointReader(options.root).verify(); }));
  const double r = median(raw), s = median(saved);
  std::printf("%lld MB, medians of 5\n", static_cast<long long>(megabytes));
  std::printf("raw write + fsync    %6.3f s\n", r);
  std::printf("save                 %6.3f s   speed against raw %.2f\n", s, r / s);
  std::printf(
      "save in background   %6.3f s   a step waits %.4f s (%.1f%% of a save), and until its update at "
      "most %.3f s for the copy\n",
      median(whole), median(begun), 100 * median(begun) / s, median(captured));
  std::printf("verify all bytes     %6.3f s\n", median(reading));
  fs::remove_all(directory);
  return 0;
}
