// The launcher (mpirun, srun): what it says in the environment, before MPI is initialised, and how it is
// asked to end a run.
#pragma once
#include <string>

namespace wuneng::launcher {

bool started_this();  // false: a single process of its own
int rank();           // in MPI_COMM_WORLD; -1: unknown
int ranks();          // 0: unknown
bool one_host();      // whether all ranks are known to be on this host
std::string job();    // equal on the ranks of one run; empty: unknown

// Asks the launcher to end all ranks now, also those that are stopped or have not begun, at any time from
// within MPI_Init on, with this exit code. Returns where it cannot be asked.
void abort(int code);

}  // namespace wuneng::launcher
