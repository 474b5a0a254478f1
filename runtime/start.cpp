// Runtime: initialising and finalising MPI, and aborting a run.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <numeric>
#include <thread>

#include "runtime/cuda/device.h"
#include "runtime/heartbeat.h"
#include "runtime/launcher.h"
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

// Without this check, `srun` without PMIx would start single processes that all write to the same files.
void require_ranks(int found) {
  const int started = launcher::ranks();
  require(started <= 1 || found == started,
          "{} ranks were started, but MPI sees {}: under Slurm start them with srun --mpi=pmix, or with "
          "mpirun inside the allocation",
          started, found);
}

void start(int* argc, char*** argv, bool messages) {
  if (launcher::ranks() > 1) cuda::set_driver_environment(messages);
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

constexpr double kReported = 1.5;  // seconds in which a collector reports
constexpr double kGrace = 1;       // lets the other ranks, which hang too, print their reports
constexpr double kLast = 2.5;      // seconds after which a process that found a hang is gone in any case
constexpr double kAborting = 1;    // seconds that MPI_Abort may take

void sleep(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

// Called from the heartbeat's or the watchdog's thread. What is called here may hang too (a full pipe, MPI's
// locks), so the kernel has a time limit. No flush: a thread that hangs may hold the lock of stdout. An abort
// during MPI_Finalize can hang mpirun; a non-zero exit code makes it end the other ranks too, a second later.
void end_hung_run(bool reporter) {
  watchdog::kill_in(kAborting);
  if (reporter && !g_finalizing) {
    launcher::abort(watchdog::kHung);
    if (state().started) MPI_Abort(MPI_COMM_WORLD, watchdog::kHung);
  }
  _exit(watchdog::kHung);
}

// The heartbeat ends this process with one report for all ranks; else this rank has its own.
void on_hang(const std::string& report) {
  watchdog::kill_in(kLast);
  const bool in_touch = heartbeat::tell_hang();
  if (in_touch) sleep(kReported);
  std::fputs(report.c_str(), stderr);
  std::fflush(stderr);
  if (!in_touch) sleep(kGrace);
  end_hung_run(true);
}

// All ranks, for calls on MPI itself; empty where the launcher does not say how many there are.
const std::vector<int>& all_ranks() {
  static const std::vector<int> ranks = [] {
    std::vector<int> out(std::max(0, launcher::ranks()));
    std::iota(out.begin(), out.end(), 0);
    return out;
  }();
  return ranks;
}

}  // namespace
}  // namespace mpi

Runtime::Runtime() {
  watchdog::read_environment();
  watchdog::start(mpi::on_hang);
}

Runtime::Runtime(int* argc, char*** argv, const std::string& directory, bool messages) {
  watchdog::read_environment();
  if (launcher::started_this() && launcher::rank() >= 0)
    set_rank_name(fmt::format("rank {}", launcher::rank()));
  watchdog::start(mpi::on_hang);
  if (!launcher::started_this()) {
    mpi::require_ranks(1);
    return;
  }
  heartbeat::start(directory, mpi::end_hung_run);
  {
    const watchdog::Waiting waiting("MPI_Init, which waits for all ranks", mpi::all_ranks());
    mpi::start(argc, argv, messages);
  }
  heartbeat::all_have_started();
}

// MPI_Finalize waits for the other ranks, so the watchdog covers it. It is skipped while an exception
// propagates: the other ranks wait for this one in other calls, and the run ends through abort().
Runtime::~Runtime() {
  const double timeout = watchdog::timeout();
  if (mpi::state().started && std::uncaught_exceptions() == 0) {
    // Ranks that are through cannot report on one that is stopped from here on: the kernel ends it.
    if (timeout > 0) watchdog::kill_in(timeout + mpi::kReported);
    const watchdog::Waiting waiting("MPI_Finalize: other ranks have not reached the end of the program",
                                    mpi::all_ranks());
    mpi::g_finalizing = true;
    heartbeat::finalizing();
    MPI_Op_free(&mpi::state().max);
    MPI_Op_free(&mpi::state().min);
    MPI_Finalize();
  }
  heartbeat::stop();
  watchdog::stop();
}

void Runtime::set_hang_timeout(double seconds) { watchdog::set_timeout(seconds); }

int Runtime::local_rank() { return mpi::state().local_rank; }

void Runtime::abort(int code) {
  std::fflush(stdout);
  std::fflush(stderr);
  if (mpi::state().started) MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

}  // namespace wuneng
