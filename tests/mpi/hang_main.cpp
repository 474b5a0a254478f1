// One rank never answers: the watchdog must name the other, its call and its peer, and end the run. Or a rank
// forgets what it has begun, which ends the run as well. See hang_test.py, which says by the first argument
// how the rank is lost.
#include <chrono>
#include <csignal>
#include <cstdio>
#include <string>
#include <thread>

#include "runtime/comm.h"

int main(int argc, char** argv) {
  wuneng::Runtime runtime(&argc, &argv);
  const std::string mode = argc > 1 ? argv[1] : "receive";
  const wuneng::Comm world = wuneng::Comm::world();
  const wuneng::Tensor value = wuneng::Tensor::zeros({3});
  wuneng::Device device;
  if (mode == "receive on a GPU" && wuneng::cuda_device_count() > 0) {
    device = {wuneng::DeviceKind::cuda, 0};
    world.connect_messages(device, {{1, 0}});
  }
  world.all_reduce(value, wuneng::Reduce::sum, "a call that ends");
  if (world.rank() == 1) {
    if (mode == "stopped") std::raise(SIGSTOP);
    std::this_thread::sleep_for(std::chrono::seconds(60));
    return 0;
  }
  if (mode == "dropped") world.iall_reduce(value, wuneng::Reduce::sum, "a sum nobody waits for");
  if (mode == "end") return 0;                     // waits in MPI_Finalize
  if (mode == "locked output") flockfile(stdout);  // which the end of the run must not wait for
  if (mode == "all_reduce")
    world.all_reduce(value, wuneng::Reduce::sum, "a sum that never comes");
  else
    world.recv(value.to(device), 1, 7, "a tensor that never comes");
}
