// One rank never answers: the others must find out, say so, and end the run. Or a rank forgets what it has
// begun, which ends the run as well. See hang_test.py.
//
// usage: hang_program MODE LOST [DIRECTORY]. LOST: the ranks that are lost, such as 0,2; MODE: how.
// DIRECTORY: for the heartbeat.
#include <mpi.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <string>
#include <thread>

#include "runtime/launcher.h"
#include "runtime/watchdog.h"
#include "tests/mpi/gpus.h"

using wuneng::Comm;

namespace {

constexpr auto kLong = std::chrono::seconds(60);

bool contains(const std::string& lost, int rank) {
  return ("," + lost + ",").find("," + std::to_string(rank) + ",") != std::string::npos;
}

// What a lost rank does when all others are about to wait for it.
void get_lost(const std::string& mode) {
  std::this_thread::sleep_for(std::chrono::seconds(1));  // the heartbeat tells where this rank is
  if (mode.starts_with("stopped")) std::raise(SIGSTOP);
  const auto begin = std::chrono::steady_clock::now();
  while (mode == "spins" && std::chrono::steady_clock::now() - begin < kLong) {
  }
  std::this_thread::sleep_for(kLong);
}

bool g_stops_in_init = false;

}  // namespace

// In place of MPI's, which is PMPI_Init_thread (MPI standard, "Profiling Interface").
extern "C" int MPI_Init_thread(int* argc, char*** argv, int required, int* provided) {
  if (g_stops_in_init) {
    std::this_thread::sleep_for(std::chrono::seconds(1));  // the heartbeat connects
    std::raise(SIGSTOP);
  }
  return PMPI_Init_thread(argc, argv, required, provided);
}

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "receive", lost = argc > 2 ? argv[2] : "1";
  const bool is_lost = contains(lost, wuneng::launcher::rank());
  if (is_lost && mode == "never starts") std::raise(SIGSTOP);
  g_stops_in_init = is_lost && mode == "stopped in MPI_Init";
  wuneng::Runtime runtime(&argc, &argv, argc > 3 ? argv[3] : "");
  const Comm world = Comm::world();
  const wuneng::Tensor value = wuneng::Tensor::zeros({3});
  wuneng::Device device;
  if (mode == "receive on a GPU" && wuneng::cuda_device_count() > 0) {
    device = wuneng::of_this_rank({wuneng::DeviceKind::cuda, 0});
    if (wuneng::gpus_of_their_own()) wuneng::reserve_gpu_memory(world, device, 0.5);
    world.connect_messages(device, {{1, 0}});
  }
  world.all_reduce(value, wuneng::Reduce::sum, "a call that ends");
  wuneng::watchdog::enter("step 7");
  wuneng::watchdog::at_micro_batch(3);
  if (is_lost) {
    get_lost(mode);
    return 0;
  }
  if (mode == "dropped") world.iall_reduce(value, wuneng::Reduce::sum, "a sum nobody waits for");
  if (mode == "end") return 0;                     // waits in MPI_Finalize
  if (mode == "locked output") flockfile(stdout);  // which the end of the run must not wait for
  if (mode.find("receive") != std::string::npos || mode == "locked output")
    world.recv(value.to(device), 1, 7, "a tensor that never comes");
  else
    world.all_reduce(value, wuneng::Reduce::sum, "a sum that never comes");
}
