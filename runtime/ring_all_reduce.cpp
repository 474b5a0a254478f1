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
  bool gathers;
  const std::string& call;

  int64_t wrap(int64_t i) const { return (i % size + size) % size; }

  // One segment, of at most `segment` elements, of every rank's part of the n elements: the one that begins
  // at `at` in it. Reduce-scatter: after size - 1 steps this rank holds that of its own part reduced over all
  // ranks, in ring order. All-gather: the reduced ones are passed around the ring.
  template <class T>
  void pass(T* data, int64_t n, int64_t at, int64_t segment, T* incoming, Reduce op) const {
    const auto piece = [&](int64_t i) {
      const int64_t begin = n * wrap(i) / size + at, end = n * (wrap(i) + 1) / size;
      return std::pair(std::min(begin, end), std::min(begin + segment, end));
    };
    for (int phase = 0; phase < (gathers ? 2 : 1); ++phase)
      for (int step = 0; step < size - 1; ++step) {
        const auto [out, out_end] = piece(rank - step - 1 + phase);
        const auto [in, in_end] = piece(rank - step - 2 + phase);
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
    for (int64_t at = 0; at * size < n; at += segment)
      pass(tensor.data<T>(), n, at, segment, incoming.data<T>(), op);
  }
};

void run(MPI_Comm comm, const Tensor& tensor, Reduce op, bool gathers, const std::string& call) {
  int rank = 0, size = 1;
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &size);
  const Ring ring{comm, rank, size, gathers, call};
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

}  // namespace

void ring_all_reduce(MPI_Comm comm, const Tensor& tensor, Reduce op, const std::string& call) {
  run(comm, tensor, op, true, call);
}

void ring_reduce_scatter(MPI_Comm comm, const Tensor& tensor, Reduce op, const std::string& call) {
  run(comm, tensor, op, false, call);
}

}  // namespace wuneng::mpi
