// Shared by the files that call MPI; no file outside runtime/comm*.cpp, ring_all_reduce.cpp and start.cpp
// includes this.
#pragma once
#include <mpi.h>

#include <atomic>
#include <string>

#include "runtime/comm.h"

namespace wuneng::mpi {

// Set once by Runtime, before any Comm exists.
struct State {
  std::atomic<bool> started = false;  // false: a single process without MPI
  bool check_collectives =
      false;  // compare collectives across ranks before each (WUNENG_CHECK_COLLECTIVES=1)
  int world_rank = 0, local_rank = 0;
  int reserved_tag = 0;  // the largest tag, for internal messages; tags of callers are below it
  MPI_Op max = MPI_OP_NULL, min = MPI_OP_NULL;  // combine() of ring_all_reduce.h
};
State& state();

// Throws with MPI's error text on failure; `call` describes the call.
void check(int code, const std::string& call);

// MPI_Wait, which goes on with what progress.h has meanwhile. Returns MPI's code.
int wait(MPI_Request& request, MPI_Status* status = MPI_STATUS_IGNORE);

MPI_Datatype type_of(DType type);  // of f32, f64, i32 and i64

}  // namespace wuneng::mpi
