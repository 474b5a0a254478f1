#include "runtime/comm_impl.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>
#include <thread>

#include "runtime/dry_run.h"
#include "runtime/progress.h"
#include "runtime/trace.h"

namespace wuneng {
namespace mpi {

State& state() {
  static State value;
  return value;
}

void check(int code, const std::string& call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail("{}: {}", call, std::string(text, length));
}

int wait(MPI_Request& request, MPI_Status* status) {
  if (progress::none()) return MPI_Wait(&request, status);
  for (int ended = 0;;) {
    if (const int code = MPI_Test(&request, &ended, status); code != MPI_SUCCESS || ended) return code;
    progress::make();
    std::this_thread::yield();
  }
}

MPI_Datatype type_of(DType type) {
  switch (type) {
    case DType::f32:
      return MPI_FLOAT;
    case DType::f64:
      return MPI_DOUBLE;
    case DType::i32:
      return MPI_INT32_T;
    case DType::i64:
      return MPI_INT64_T;
    default:
      fail("internal check failed: no MPI type for {}", to_string(type));
  }
}

}  // namespace mpi

Comm::Impl::Impl(MPI_Comm group, std::string group_name) : comm(group), name(std::move(group_name)) {
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &size);
  MPI_Group here, everywhere;  // translated locally: world() must not be a collective call
  MPI_Comm_group(comm, &here);
  MPI_Comm_group(MPI_COMM_WORLD, &everywhere);
  std::vector<int> ranks(size);
  std::iota(ranks.begin(), ranks.end(), 0);
  world_ranks.resize(size);
  MPI_Group_translate_ranks(here, size, ranks.data(), everywhere, world_ranks.data());
  MPI_Group_free(&here);
  MPI_Group_free(&everywhere);
  members = to_ranges(world_ranks);
}

Comm::Impl::~Impl() {
  nccl.reset();
  ways_to.clear();
  ways_from.clear();
  for (auto& channel : channels)
    channel.reset();  // in the same order on all ranks: destroying a channel waits for its peer
  int finalized = 0;
  if (MPI_Finalized(&finalized) != MPI_SUCCESS || finalized) return;
  if (ready != MPI_COMM_NULL) MPI_Comm_free(&ready);
  if (comm != MPI_COMM_NULL && comm != MPI_COMM_WORLD) MPI_Comm_free(&comm);
}

Comm::CallGuard::CallGuard(const Impl& group, const Call& call) : group_(group) {
  check(call);
  progress::make();
  if (group_.dry && call.tensor && call.tensor->device().dry) dry_run::count_sent(group_.name, sent(call));
  if (alone() && (call.collective || group_.dry)) return;
  static std::atomic<int64_t> calls = 0;
  const std::string mine = signature(call);
  text_ = fmt::format("{} on {} (world ranks {}), call {}", mine, group_.name, group_.members, ++calls);
  if (!call.collective) return;  // only posts the message; Request::wait registers with the watchdog
  waiting_.emplace(text_, group_.world_ranks);
  if (mpi::state().check_collectives) check_collectives(mine);
  if (trace::recording() && !call.begins && !(call.tensor && group_.by_nccl(*call.tensor))) trace_waiting();
}

// Bytes that a rank sends, where collectives go round in rings.
double Comm::CallGuard::sent(const Call& c) const {
  const double bytes = double(c.tensor->bytes()), others = double(group_.size - 1);
  if (!c.collective) return std::strcmp(c.operation, "send") == 0 ? bytes : 0;
  if (c.operation == std::string("all_gather")) return bytes * others;
  if (c.operation == std::string("reduce_scatter sum")) return bytes * others / group_.size;
  return 2 * bytes * others / group_.size;
}

// In a trace the wait until all ranks are in the call is apart from the call. They record the same steps, and
// so the same calls.
void Comm::CallGuard::trace_waiting() const {
  const trace::Span span(trace::Kind::waiting, "until all ranks are in the call");
  barrier();
}

void Comm::CallGuard::barrier() const {
  MPI_Request request;
  mpi::check(MPI_Ibarrier(group_.comm, &request), text_);
  mpi::check(mpi::wait(request), text_);
}

std::vector<std::string> Comm::CallGuard::gather_text(const std::string& mine) const {
  std::vector<int> lengths(group_.size), offsets(group_.size);
  const int length = static_cast<int>(mine.size());
  mpi::check(MPI_Allgather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, group_.comm), text_);
  int64_t total = 0;
  for (int r = 0; r < group_.size; total += lengths[r++]) offsets[r] = static_cast<int>(total);
  require(total <= INT32_MAX, "{}: {} bytes of text in all, expected at most {}", text_, total, INT32_MAX);
  std::string all(total, ' ');
  mpi::check(MPI_Allgatherv(mine.data(), length, MPI_CHAR, all.data(), lengths.data(), offsets.data(),
                            MPI_CHAR, group_.comm),
             text_);
  std::vector<std::string> out;
  for (int r = 0; r < group_.size; ++r) out.push_back(all.substr(offsets[r], lengths[r]));
  return out;
}

std::string Comm::CallGuard::signature(const Call& c) const {
  std::string out = fmt::format("{} '{}'", c.operation, c.what);
  if (c.tensor) out += fmt::format(" {}{}", to_string(c.tensor->dtype()), to_string(c.tensor->shape()));
  if (c.peer >= 0 && c.peer < group_.size)
    out += fmt::format(" with world rank {}", group_.world_ranks[c.peer]);
  return out;
}

std::string Comm::CallGuard::description(const Call& c) const {
  return fmt::format("{} on {} (world ranks {})", signature(c), group_.name, group_.members);
}

// Builds the description only on an error: this runs before every call.
void Comm::CallGuard::check(const Call& c) const {
  if (c.tensor) {
    const DType type = c.tensor->dtype();
    if (!c.tensor->defined()) fail("{}: the tensor is undefined", description(c));
    if (c.reduces && (type == DType::f16 || type == DType::u8 || type == DType::i8))
      fail("{}: {} cannot be reduced, expected f32, bf16, f64, i32 or i64", description(c), to_string(type));
  }
  if (c.peer < (c.needs_peer ? 0 : -1) || c.peer >= group_.size)
    fail("{}: expected a rank in [0, {}), found {}", description(c), group_.size, c.peer);
  if (c.collective) return;
  if (group_.dry) return;
  if (group_.comm == MPI_COMM_NULL)
    fail("{}: the group has one rank, expected a peer to send to or receive from", description(c));
  const int tags = mpi::state().reserved_tag;
  if (c.tag < 0 || c.tag >= tags)
    fail("{}: expected a tag in [0, {}), found {}", description(c), tags, c.tag);
}

// Compares a hash over the ranks; if it differs, gathers the full texts, so that each rank can name one that
// is in another call.
void Comm::CallGuard::check_collectives(const std::string& mine) const {
  const uint64_t hash = std::hash<std::string>{}(mine);
  std::vector<uint64_t> hashes(group_.size);
  MPI_Request request;
  mpi::check(MPI_Iallgather(&hash, 1, MPI_UINT64_T, hashes.data(), 1, MPI_UINT64_T, group_.comm, &request),
             text_);
  mpi::check(mpi::wait(request), text_);
  if (std::all_of(hashes.begin(), hashes.end(), [&](uint64_t h) { return h == hashes[0]; })) return;
  const std::vector<std::string> all = gather_text(mine);
  for (int r = 0; r < group_.size; ++r)
    require(all[r] == mine, "{}: world rank {} is in {}", text_, group_.world_ranks[r], all[r]);
}

}  // namespace wuneng
