#include "runtime/ring_all_reduce.h"

#include <algorithm>
#include <utility>

#include "runtime/mpi_call.h"

namespace wuneng::mpi {
namespace {

constexpr int64_t kSegmentBytes =
    1 << 20;  // of one message: small enough to stay in cache until it is combined

struct Ring {
  MPI_Comm comm;
  int rank, size;
  const std::string& call;

  int64_t wrap(int64_t i) const { return (i % size + size) % size; }

  // One block of at most `size` segments. Reduce-scatter: after size - 1 steps this rank holds one piece of
  // the block reduced over all ranks, in ring order. All-gather: the reduced pieces are passed around the
  // ring.
  template <class T>
  void block(T* data, int64_t n, T* incoming, Reduce op) const {
    const auto piece = [&](int64_t i) { return std::pair(n * wrap(i) / size, n * (wrap(i) + 1) / size); };
    for (int phase = 0; phase < 2; ++phase)
      for (int step = 0; step < size - 1; ++step) {
        const auto [out, out_end] = piece(rank - step + phase);
        const auto [in, in_end] = piece(rank - step - 1 + phase);
        exchange(data + out, out_end - out, phase == 0 ? incoming : data + in, in_end - in);
        if (phase == 0) combine(data + in, incoming, in_end - in, op);
      }
  }

  template <class T>
  void exchange(const T* out, int64_t out_count, T* in, int64_t in_count) const {
    const int next = static_cast<int>(wrap(rank + 1)), before = static_cast<int>(wrap(rank - 1));
    const int tag = state().reserved_tag;
    const MPI_Datatype type = type_of(dtype_of<T>);
    check(MPI_Sendrecv(out, static_cast<int>(out_count), type, next, tag, in, static_cast<int>(in_count),
                       type, before, tag, comm, MPI_STATUS_IGNORE),
          call);
  }

  template <class T>
  void run(const Tensor& tensor, Reduce op) const {
    const int64_t segment = kSegmentBytes / static_cast<int64_t>(sizeof(T)), n = tensor.numel();
    const Tensor incoming = Tensor::empty({segment}, dtype_of<T>);
    for (int64_t at = 0; at < n; at += size * segment)
      block(tensor.data<T>() + at, std::min(size * segment, n - at), incoming.data<T>(), op);
  }
};

}  // namespace

void ring_all_reduce(MPI_Comm comm, const Tensor& tensor, Reduce op, const std::string& call) {
  int rank = 0, size = 1;
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &size);
  const Ring ring{comm, rank, size, call};
  switch (tensor.dtype()) {
    case DType::f32:
      return ring.run<float>(tensor, op);
    case DType::f64:
      return ring.run<double>(tensor, op);
    case DType::i32:
      return ring.run<int32_t>(tensor, op);
    case DType::i64:
      return ring.run<int64_t>(tensor, op);
    default:
      WUNENG_ASSERT(false);
  }
}

}  // namespace wuneng::mpi
