// Rank 1 never answers: the watchdog must name rank 0, its call and its peer, and end the run. See
// hang_test.py.
#include <chrono>
#include <thread>

#include "runtime/comm.h"

int main(int argc, char** argv) {
  wuneng::Runtime runtime(&argc, &argv);
  const wuneng::Comm world = wuneng::Comm::world();
  const wuneng::Tensor value = wuneng::Tensor::zeros({3});
  world.all_reduce(value, wuneng::Reduce::sum, "a call that ends");
  if (world.rank() == 0)
    world.recv(value, 1, 7, "a tensor that never comes");
  else
    std::this_thread::sleep_for(std::chrono::seconds(60));
}
