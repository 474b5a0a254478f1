// What the launcher (mpirun, srun) says in the environment, before MPI is initialised.
#pragma once
#include <string>

namespace wuneng::launcher {

bool started_this();  // false: a single process of its own
int rank();           // in MPI_COMM_WORLD; -1: unknown
int ranks();          // 0: unknown
bool one_host();      // whether all ranks are known to be on this host
std::string job();    // equal on the ranks of one run; empty: unknown

}  // namespace wuneng::launcher
