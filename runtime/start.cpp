// Runtime: initialising and finalising MPI, and aborting a run.
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "runtime/cuda/device.h"
#include "runtime/mpi_call.h"
#include "runtime/ring_all_reduce.h"
#include "runtime/watchdog.h"

namespace wuneng {
namespace mpi {
namespace {

template <Reduce op>
void combine_any(void* from, void* into, int* n, MPI_Datatype* type) {
  if (*type == MPI_FLOAT)
    combine(static_cast<float*>(into), static_cast<float*>(from), *n, op);
  else if (*type == MPI_DOUBLE)
    combine(static_cast<double*>(into), static_cast<double*>(from), *n, op);
  else if (*type == MPI_INT32_T)
    combine(static_cast<int32_t*>(into), static_cast<int32_t*>(from), *n, op);
  else
    combine(static_cast<int64_t*>(into), static_cast<int64_t*>(from), *n, op);
}

bool launched() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"})
    if (std::getenv(name)) return true;
  return false;
}

// The number of ranks according to the launcher's environment; 0 if it is not set. mpirun's variable is
// first: inside a Slurm allocation mpirun starts its daemons as Slurm tasks.
int ranks_started() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"})
    if (const char* text = std::getenv(name)) return std::atoi(text);
  return 0;
}

// Without this check, `srun` without PMIx would start single processes that all write to the same files.
void require_ranks(int found) {
  const int started = ranks_started();
  require(started <= 1 || found == started,
          "{} ranks were started, but MPI sees {}: under Slurm start them with srun --mpi=pmix, or with "
          "mpirun inside the allocation",
          started, found);
}

void start(int* argc, char*** argv) {
  int provided = MPI_THREAD_SINGLE, size = 1;
  check(MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  State& s = state();
  s.started = true;
  require(provided == MPI_THREAD_MULTIPLE,
          "MPI provides thread level {}, expected {} (MPI_THREAD_MULTIPLE): the watchdog "
          "aborts the run while another thread waits",
          provided, MPI_THREAD_MULTIPLE);
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);  // groups split from it inherit this
  MPI_Comm_rank(MPI_COMM_WORLD, &s.world_rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  require_ranks(size);
  if (size > 1) cuda::set_driver_environment();
  MPI_Comm node;
  check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, s.world_rank, MPI_INFO_NULL, &node),
        "MPI_Comm_split_type");
  MPI_Comm_rank(node, &s.local_rank);
  MPI_Comm_free(&node);
  int found = 0;
  int* largest_tag = nullptr;
  MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &largest_tag, &found);
  s.reserved_tag = found ? *largest_tag : 32767;  // the minimum of the MPI standard
  check(MPI_Op_create(combine_any<Reduce::max>, 1, &s.max), "MPI_Op_create");
  check(MPI_Op_create(combine_any<Reduce::min>, 1, &s.min), "MPI_Op_create");
  const char* wanted = std::getenv("WUNENG_CHECK_COLLECTIVES");
  s.check_collectives = wanted && std::strcmp(wanted, "0") != 0;
  set_rank_name(fmt::format("rank {}", s.world_rank));
}

std::atomic<bool> g_finalizing = false;

// Called from the watchdog's thread. No flush: a thread that hangs may hold the lock of stdout. MPI_Abort
// during MPI_Finalize can hang mpirun; a non-zero exit code makes it end the other ranks too.
void end_hung_run() {
  if (state().started && !g_finalizing) MPI_Abort(MPI_COMM_WORLD, watchdog::kHung);
  _exit(watchdog::kHung);
}

}  // namespace
}  // namespace mpi

Runtime::Runtime() {
  watchdog::read_environment();
  watchdog::start(mpi::end_hung_run);
}

Runtime::Runtime(int* argc, char*** argv) {
  watchdog::read_environment();
  if (mpi::launched())
    mpi::start(argc, argv);
  else
    mpi::require_ranks(1);
  watchdog::start(mpi::end_hung_run);
}

// MPI_Finalize waits for the other ranks, so the watchdog covers it. It is skipped while an exception
// propagates: the other ranks wait for this one in other calls, and the run ends through abort().
Runtime::~Runtime() {
  if (mpi::state().started && std::uncaught_exceptions() == 0) {
    watchdog::Waiting waiting("MPI_Finalize: other ranks have not reached the end of the program");
    mpi::g_finalizing = true;
    MPI_Op_free(&mpi::state().max);
    MPI_Op_free(&mpi::state().min);
    MPI_Finalize();
  }
  watchdog::stop();
}

void Runtime::set_hang_timeout(double seconds) { watchdog::set_timeout(seconds); }

int Runtime::launched_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"})
    if (const char* text = std::getenv(name)) return std::atoi(text);
  return 0;
}

int Runtime::local_rank() { return mpi::state().local_rank; }

void Runtime::abort(int code) {
  std::fflush(stdout);
  std::fflush(stderr);
  if (mpi::state().started) MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

}  // namespace wuneng
