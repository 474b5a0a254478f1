#include "runtime/launcher.h"

#include <pmix.h>

#include <cstdlib>
#include <initializer_list>

namespace wuneng::launcher {
namespace {

const char* first_of(std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (const char* text = std::getenv(name)) return text;
  return nullptr;
}

int number(std::initializer_list<const char*> names, int otherwise) {
  const char* text = first_of(names);
  return text ? std::atoi(text) : otherwise;
}

}  // namespace

bool started_this() { return first_of({"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) != nullptr; }

// mpirun's variables are first: inside a Slurm allocation mpirun starts its daemons as Slurm tasks.
int rank() { return number({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}, -1); }
int ranks() { return number({"OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "PMI_SIZE"}, 0); }

bool one_host() {
  if (const int here = number({"OMPI_COMM_WORLD_LOCAL_SIZE"}, 0)) return here == ranks();
  return number({"SLURM_STEP_NUM_NODES"}, 0) == 1;
}

std::string job() {
  const char* text = first_of({"PMIX_NAMESPACE", "OMPI_MCA_orte_ess_jobid", "PMI_JOBID", "SLURM_JOB_ID"});
  return text ? text : "";
}

// Unlike MPI_Abort it may be called before MPI is initialised and while it is finalised. It is an error, at
// once, in a process that PMIx does not know.
void abort(int code) { PMIx_Abort(code, "", nullptr, 0); }

}  // namespace wuneng::launcher
