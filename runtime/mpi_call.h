// What the files that call MPI share; nothing outside runtime/comm*.cpp, ring.cpp and start.cpp includes
// this.
#pragma once
#include <mpi.h>

#include <string>

#include "runtime/comm.h"

namespace wuneng::mpi {

// Set once by Runtime, before any Comm exists, and read ever after.
struct State {
  bool started = false;      // a single process runs without MPI
  bool check_alike = false;  // compare collectives across ranks before each (WUNENG_CHECK_COLLECTIVES=1)
  int world_rank = 0, local_rank = 0;
  int own_tag = 0;  // the largest tag there is, kept for our own messages: users' tags are below it
  MPI_Op max = MPI_OP_NULL, min = MPI_OP_NULL;  // ours; see combine() in ring.h for what they add to MPI's
};
State& state();

// Fails with MPI's own explanation; `call` says who called what with whom.
void check(int code, const std::string& call);

MPI_Datatype type_of(DType type);  // of f32, f64, i32 and i64

}  // namespace wuneng::mpi
