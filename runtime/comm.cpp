#include "runtime/comm.h"

#include <mpi.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "runtime/watchdog.h"

namespace wuneng {
namespace {

bool g_mpi = false;    // was MPI started?
bool g_check = false;  // compare collectives across ranks before each (WUNENG_CHECK_COLLECTIVES=1)
int64_t g_calls = 0;
constexpr int64_t kRing = 1 << 20;   // bytes above which our ring beats MPI_Allreduce
constexpr int64_t kPiece = 1 << 28;  // elements of one MPI call, below its int counts

void check_mpi(int code, const std::string& call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail("{}: {}", call, std::string(text, length));
}

MPI_Datatype mpi_type(DType type, const std::string& call) {
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
      fail("{}: {} cannot be reduced; expected f32, f64, i32 or i64", call, to_string(type));
  }
}

template <class T>
void combine(T* a, const T* b, int64_t n, Reduce op) {
  if (op == Reduce::sum)
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) a[i] += b[i];
  else if (op == Reduce::max)
    for (int64_t i = 0; i < n; ++i) a[i] = std::max(a[i], b[i]);
  else
    for (int64_t i = 0; i < n; ++i) a[i] = std::min(a[i], b[i]);
}

}  // namespace

struct Comm::Impl {
  MPI_Comm comm = MPI_COMM_NULL;
  int rank = 0, size = 1;
  std::string name = "self";
  std::vector<int> world_ranks = {0};

  ~Impl() {
    int finalized = 0;
    if (g_mpi && comm != MPI_COMM_NULL && comm != MPI_COMM_WORLD &&
        MPI_Finalized(&finalized) == MPI_SUCCESS && !finalized)
      MPI_Comm_free(&comm);
  }

  // "all_reduce sum 'grad norm' f64[1] on student.tp (world ranks 0,1), call 123"
  std::string describe(const char* operation, const char* what, const Tensor& t, int peer = -1) const {
    std::string ranks;
    for (int r : world_ranks) ranks += (ranks.empty() ? "" : ",") + std::to_string(r);
    return fmt::format("{} '{}' {}{}{} on {} (world ranks {}), call {}", operation, what,
                       to_string(t.dtype()), to_string(t.shape()),
                       peer >= 0 ? fmt::format(" with world rank {}", world_ranks[peer]) : "", name, ranks,
                       ++g_calls);
  }

  // All ranks of the group must be in the same call with the same size; else each says what it is in.
  void check_alike(const char* operation, const char* what, const Tensor& t, const std::string& call) const {
    if (!g_check) return;
    char mine[128] = {};
    std::snprintf(mine, sizeof mine, "%s '%s' %s%s", operation, what,
                  std::string(to_string(t.dtype())).c_str(), to_string(t.shape()).c_str());
    std::vector<char> all(sizeof mine * size);
    check_mpi(MPI_Allgather(mine, sizeof mine, MPI_CHAR, all.data(), sizeof mine, MPI_CHAR, comm), call);
    for (int r = 0; r < size; ++r)
      require(std::strncmp(mine, all.data() + r * sizeof mine, sizeof mine) == 0,
              "{}: world rank {} is in {} meanwhile", call, world_ranks[r], all.data() + r * sizeof mine);
  }

  // Ring: each rank ends up with the sum of one piece, then pieces go round. One order of summation per
  // piece, so all ranks agree bitwise.
  template <class T>
  void ring(T* data, int64_t n, Reduce op, MPI_Datatype type, const std::string& call) const {
    std::vector<T> incoming((n + size - 1) / size + 1);
    const auto piece = [&](int i) {
      return std::pair{n * ((i % size + size) % size) / size, n * ((i % size + size) % size + 1) / size};
    };
    const int next = (rank + 1) % size, before = (rank + size - 1) % size;
    for (int phase = 0; phase < 2; ++phase)
      for (int step = 0; step < size - 1; ++step) {
        const auto out = piece(rank - step + phase), in = piece(rank - step - 1 + phase);
        T* to = phase == 0 ? incoming.data() : data + in.first;
        check_mpi(
            MPI_Sendrecv(data + out.first, static_cast<int>(out.second - out.first), type, next, 1, to,
                         static_cast<int>(in.second - in.first), type, before, 1, comm, MPI_STATUS_IGNORE),
            call);
        if (phase == 0) combine(data + in.first, incoming.data(), in.second - in.first, op);
      }
  }
};

struct Request::Impl {
  MPI_Request request = MPI_REQUEST_NULL;
  Tensor buffer;
  std::string call;
  int64_t expected = -1;  // bytes, of a receive

  void finish(const MPI_Status& status) {
    if (expected >= 0) {
      MPI_Count bytes = 0;
      MPI_Get_elements_x(&status, MPI_BYTE, &bytes);
      require(bytes == expected, "{}: expected {} bytes, received {}", call, expected,
              static_cast<int64_t>(bytes));
    }
    request = MPI_REQUEST_NULL;
  }
  ~Impl() {
    // A buffer that MPI may still write to must not be freed. Unwinding ends in MPI_Abort anyway.
    if (request != MPI_REQUEST_NULL && std::uncaught_exceptions() == 0) {
      std::fprintf(stderr, "wuneng: %s: %s was dropped before it ended\n", rank_name().c_str(), call.c_str());
      Runtime::abort(70);
    }
    if (request != MPI_REQUEST_NULL) new Tensor(buffer);
  }
};

bool Request::done() {
  if (!impl_) return true;
  int flag = 0;
  MPI_Status status;
  check_mpi(MPI_Test(&impl_->request, &flag, &status), impl_->call);
  if (!flag) return false;
  impl_->finish(status);
  impl_.reset();
  return true;
}

void Request::wait() {
  if (!impl_) return;
  watchdog::Waiting waiting(impl_->call);
  MPI_Status status;
  check_mpi(MPI_Wait(&impl_->request, &status), impl_->call);
  impl_->finish(status);
  impl_.reset();
}

Comm::Comm() : impl_(std::make_shared<Impl>()) {}
Comm::Comm(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}

Comm Comm::world() {
  if (!g_mpi) return Comm();
  auto impl = std::make_shared<Impl>();
  impl->comm = MPI_COMM_WORLD;
  impl->name = "world";
  MPI_Comm_rank(MPI_COMM_WORLD, &impl->rank);
  MPI_Comm_size(MPI_COMM_WORLD, &impl->size);
  impl->world_ranks.resize(impl->size);
  for (int r = 0; r < impl->size; ++r) impl->world_ranks[r] = r;
  return Comm(impl);
}

int Comm::rank() const { return impl_->rank; }
int Comm::size() const { return impl_->size; }
const std::string& Comm::name() const { return impl_->name; }
const std::vector<int>& Comm::world_ranks() const { return impl_->world_ranks; }

Comm Comm::split(int color, int key, const std::string& name) const {
  auto impl = std::make_shared<Impl>();
  impl->name = name;
  if (impl_->comm == MPI_COMM_NULL) return Comm(impl);
  impl->world_ranks = {impl_->world_ranks[impl_->rank]};
  watchdog::Waiting waiting(fmt::format("split of {} into {}", impl_->name, name));
  MPI_Comm part = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split(impl_->comm, color < 0 ? MPI_UNDEFINED : color, key, &part), "split into " + name);
  if (part == MPI_COMM_NULL) return Comm(impl);
  impl->comm = part;
  MPI_Comm_rank(part, &impl->rank);
  MPI_Comm_size(part, &impl->size);
  impl->world_ranks.resize(impl->size);
  const int mine = impl_->world_ranks[impl_->rank];
  check_mpi(MPI_Allgather(&mine, 1, MPI_INT, impl->world_ranks.data(), 1, MPI_INT, part),
            "split into " + name);
  return Comm(impl);
}

void Comm::all_reduce(const Tensor& tensor, Reduce op, const char* what) const {
  if (impl_->size == 1) return;
  constexpr const char* names[] = {"all_reduce sum", "all_reduce max", "all_reduce min"};
  const char* operation = names[static_cast<int>(op)];
  const std::string call = impl_->describe(operation, what, tensor);
  watchdog::Waiting waiting(call);
  impl_->check_alike(operation, what, tensor, call);
  const MPI_Datatype type = mpi_type(tensor.dtype(), call);
  const MPI_Op mpi_op = op == Reduce::sum ? MPI_SUM : op == Reduce::max ? MPI_MAX : MPI_MIN;
  for (int64_t at = 0; at < tensor.numel(); at += kPiece) {
    const int64_t n = std::min(kPiece, tensor.numel() - at);
    char* data = static_cast<char*>(tensor.raw()) + at * size_of(tensor.dtype());
    if (tensor.dtype() == DType::f32 && n * 4 > kRing)
      impl_->ring(reinterpret_cast<float*>(data), n, op, type, call);
    else
      check_mpi(MPI_Allreduce(MPI_IN_PLACE, data, static_cast<int>(n), type, mpi_op, impl_->comm), call);
  }
}

double Comm::all_reduce(double value, Reduce op, const char* what) const {
  if (impl_->size == 1) return value;
  const Tensor t = Tensor::from<double>({value}, {1});
  all_reduce(t, op, what);
  return t.data<double>()[0];
}

void Comm::broadcast(const Tensor& tensor, int root, const char* what) const {
  if (impl_->size == 1) return;
  const std::string call = impl_->describe("broadcast", what, tensor, root);
  watchdog::Waiting waiting(call);
  impl_->check_alike("broadcast", what, tensor, call);
  for (int64_t at = 0; at < tensor.bytes(); at += kPiece)
    check_mpi(MPI_Bcast(static_cast<char*>(tensor.raw()) + at,
                        static_cast<int>(std::min(kPiece, tensor.bytes() - at)), MPI_BYTE, root, impl_->comm),
              call);
}

void Comm::all_gather(const Tensor& mine, const Tensor& all, const char* what) const {
  WUNENG_ASSERT(all.numel() == mine.numel() * impl_->size && all.dtype() == mine.dtype());
  if (impl_->size == 1) return all.view(mine.shape()).copy_from(mine);
  const std::string call = impl_->describe("all_gather", what, mine);
  watchdog::Waiting waiting(call);
  impl_->check_alike("all_gather", what, mine, call);
  require(mine.bytes() < kPiece, "{}: {} bytes a rank, expected fewer than {}", call, mine.bytes(), kPiece);
  const int bytes = static_cast<int>(mine.bytes());
  check_mpi(MPI_Allgather(mine.raw(), bytes, MPI_BYTE, all.raw(), bytes, MPI_BYTE, impl_->comm), call);
}

void Comm::barrier(const char* what) const {
  if (impl_->size == 1) return;
  const std::string call = impl_->describe("barrier", what, Tensor());
  watchdog::Waiting waiting(call);
  impl_->check_alike("barrier", what, Tensor(), call);
  check_mpi(MPI_Barrier(impl_->comm), call);
}

std::vector<std::string> Comm::all_gather_text(const std::string& mine, const char* what) const {
  if (impl_->size == 1) return {mine};
  const std::string call = impl_->describe("all_gather_text", what, Tensor());
  watchdog::Waiting waiting(call);
  impl_->check_alike("all_gather_text", what, Tensor(), call);
  const int size = impl_->size, length = static_cast<int>(mine.size());
  std::vector<int> lengths(size), offsets(size + 1, 0);
  check_mpi(MPI_Allgather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, impl_->comm), call);
  for (int r = 0; r < size; ++r) offsets[r + 1] = offsets[r] + lengths[r];
  std::vector<char> all(offsets[size] + 1);
  check_mpi(MPI_Allgatherv(mine.data(), length, MPI_CHAR, all.data(), lengths.data(), offsets.data(),
                           MPI_CHAR, impl_->comm),
            call);
  std::vector<std::string> out;
  for (int r = 0; r < size; ++r) out.emplace_back(all.data() + offsets[r], lengths[r]);
  return out;
}

Request Comm::isend(const Tensor& tensor, int peer, int tag, const char* what) const {
  WUNENG_ASSERT(impl_->comm != MPI_COMM_NULL && peer >= 0 && peer < impl_->size);
  Request out;
  out.impl_ = std::make_shared<Request::Impl>();
  out.impl_->buffer = tensor;
  out.impl_->call = impl_->describe("send", what, tensor, peer);
  require(tensor.bytes() <= INT32_MAX, "{}: {} bytes are more than one message holds; cut the micro-batch",
          out.impl_->call, tensor.bytes());
  check_mpi(MPI_Isend(tensor.raw(), static_cast<int>(tensor.bytes()), MPI_BYTE, peer, tag, impl_->comm,
                      &out.impl_->request),
            out.impl_->call);
  return out;
}

Request Comm::irecv(const Tensor& tensor, int peer, int tag, const char* what) const {
  WUNENG_ASSERT(impl_->comm != MPI_COMM_NULL && peer >= 0 && peer < impl_->size);
  Request out;
  out.impl_ = std::make_shared<Request::Impl>();
  out.impl_->buffer = tensor;
  out.impl_->expected = tensor.bytes();
  out.impl_->call = impl_->describe("receive", what, tensor, peer);
  require(tensor.bytes() <= INT32_MAX, "{}: {} bytes are more than one message holds; cut the micro-batch",
          out.impl_->call, tensor.bytes());
  check_mpi(MPI_Irecv(tensor.raw(), static_cast<int>(tensor.bytes()), MPI_BYTE, peer, tag, impl_->comm,
                      &out.impl_->request),
            out.impl_->call);
  return out;
}

void Comm::send(const Tensor& tensor, int peer, int tag, const char* what) const {
  isend(tensor, peer, tag, what).wait();
}
void Comm::recv(const Tensor& tensor, int peer, int tag, const char* what) const {
  irecv(tensor, peer, tag, what).wait();
}

Runtime::Runtime(int* argc, char*** argv) {
  const auto launched = [] {
    for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"})
      if (std::getenv(name)) return true;
    return false;
  };
  if (launched()) {
    int provided = 0;
    MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE,
                    &provided);  // the watchdog may abort while another thread waits
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    g_mpi = true;
    const char* check = std::getenv("WUNENG_CHECK_COLLECTIVES");
    g_check = check && std::strcmp(check, "0") != 0;
    set_rank_name(fmt::format("rank {}", Comm::world().rank()));
  }
  watchdog::start([] { Runtime::abort(86); });
}

Runtime::~Runtime() {
  watchdog::stop();
  if (g_mpi) MPI_Finalize();
}

void Runtime::set_hang_timeout(double seconds) { watchdog::set_timeout(seconds); }

void Runtime::abort(int code) {
  std::fflush(stdout);
  std::fflush(stderr);
  if (g_mpi) MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

}  // namespace wuneng
