#include "parallel/sequence_parallel.h"

#include <algorithm>

namespace wuneng {
namespace {

// x [T, d] itself where all shares are full.
Tensor padded(const Comm& tp, const Tensor& x) {
  if (x.dim(0) % tp.size() == 0) return x;
  const Tensor out = padded_rows(tp, x.dim(0), x.dim(1), x.dtype(), x.device());
  out.rows(0, x.dim(0)).copy_from(x);
  return out;
}

// Of [tp R, d], in memory of its own: the other shares need not stay.
Tensor share_of(const Comm& tp, const Tensor& all) {
  const int64_t R = all.dim(0) / tp.size();
  const Tensor out = Tensor::empty({R, all.dim(1)}, all.dtype(), all.device());
  out.copy_from(all.rows(tp.rank() * R, (tp.rank() + 1) * R));
  return out;
}

}  // namespace

int64_t rows_of_share(int64_t rows, int ranks) { return (rows + ranks - 1) / ranks; }

Range share_of_rows(int64_t rows, int ranks, int rank) {
  const int64_t R = rows_of_share(rows, ranks);
  return {std::min(rows, rank * R), std::min(rows, (rank + 1) * R)};
}

Tensor padded_rows(const Comm& tp, int64_t rows, int64_t channels, DType dtype, Device device) {
  const int64_t all = rows_of_share(rows, tp.size()) * tp.size();
  const Tensor out = Tensor::empty({all, channels}, dtype, device);
  if (all > rows) out.rows(rows, all).zero();
  return out;
}

Tensor reduce_scatter_rows(const Comm& tp, const Tensor& shares, const char* what) {
  tp.reduce_scatter(shares, what);
  return share_of(tp, shares);
}

Tensor all_gather_rows(const Comm& tp, const Tensor& share, int64_t rows, const char* what) {
  const int64_t R = share.dim(0), d = share.dim(1);
  const Tensor all = Tensor::empty({tp.size(), R, d}, share.dtype(), share.device());
  tp.all_gather(share, all, what);
  return all.view({tp.size() * R, d}).rows(0, rows);
}

Var gather_rows(Tape& tape, const Comm& tp, const Var& x, int64_t rows) {
  const Var out = tape.output(all_gather_rows(tp, x.value(), rows, "rows of a layer's input"), tape.wants(x));
  const auto sum = std::make_shared<std::pair<Tensor, Request>>();
  tape.record_sum(
      out,
      [=] {
        sum->first = padded(tp, out.gradient().begun());  // in a tensor that nobody else reads
        sum->second = tp.ireduce_scatter(sum->first, "gradient of a layer's input");
      },
      [=] {
        sum->second.wait();
        x.add_grad(share_of(tp, sum->first));
        sum->first = {};
      });
  return out;
}

Var gather_rows_for_all(Tape& tape, const Comm& tp, const Var& x, int64_t rows) {
  const Var out = tape.output(all_gather_rows(tp, x.value(), rows, "rows of a hidden state"), tape.wants(x));
  tape.record(out, [=] {
    const Range mine = share_of_rows(rows, tp.size(), tp.rank());
    const Tensor gradient = x.fresh_grad();
    gradient.rows(0, mine.size()).copy_from(out.grad().rows(mine.begin, mine.end));
    if (mine.size() < x.dim(0)) gradient.rows(mine.size(), x.dim(0)).zero();
    x.add_grad(gradient);
  });
  return out;
}

Var scatter_sum(Tape& tape, const Comm& tp, const Var& x) {
  const Tensor sum = reduce_scatter_rows(tp, padded(tp, x.value()), "rows of a sum");
  const Var out = tape.output(sum, tape.wants(x));
  tape.record(
      out, [=, rows = x.dim(0)] { x.add_grad(all_gather_rows(tp, out.grad(), rows, "gradient of a sum")); });
  return out;
}

}  // namespace wuneng
