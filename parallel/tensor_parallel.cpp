#include "parallel/tensor_parallel.h"

#include <algorithm>

#include "kernels/rows.h"

namespace wuneng {

Var copy_to_tensor_parallel(Tape& tape, const Comm& tp, const Var& x) {
  if (tp.size() == 1) return x;
  const Var out = tape.output(x.value(), tape.wants(x));
  const auto sum = std::make_shared<Request>();
  tape.record_sum(
      out,
      [=] {  // in a tensor that nobody else reads
        *sum = tp.iall_reduce(out.gradient().begun(), Reduce::sum, "gradient of a layer's input");
      },
      [=] {
        sum->wait();
        x.add_grad(out.grad());
      });
  return out;
}

Var reduce_from_tensor_parallel(Tape& tape, const Comm& tp, const Var& x) {
  if (tp.size() == 1) return x;
  tp.all_reduce(x.value(), Reduce::sum, "output of a row-parallel product");
  const Var out = tape.output(x.value(), tape.wants(x));
  tape.record(out, [=] { x.add_grad(out.grad()); });
  return out;
}

void sum_in_parts(const Comm& tp, const Tensor& y,
                  const std::function<void(int64_t begin, int64_t end)>& form) {
  constexpr int64_t kMostParts = 4, kLeastRows = 1024;
  const int64_t T = y.dim(0);
  const int64_t parts = tp.size() > 1 ? std::clamp<int64_t>(T / kLeastRows, 1, kMostParts) : 1;
  std::vector<Request> sums;
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t begin = T * i / parts, end = T * (i + 1) / parts;
    form(begin, end);
    sums.push_back(tp.iall_reduce(y.rows(begin, end), Reduce::sum, "output of a row-parallel product"));
  }
  for (Request& sum : sums) sum.wait();
}

namespace {

// x [T, heads, D] with its shared heads summed over the ranks.
Tensor with_shared_summed(const Stream& stream, const Comm& tp, const Tensor& x,
                          const std::vector<SharedHead>& shared, int slots, const char* what) {
  const int64_t T = x.dim(0), heads = x.dim(1), D = x.dim(2);
  const auto fresh = [&](Shape shape) { return Tensor::empty(std::move(shape), x.dtype(), x.device()); };
  std::vector<int> mine, slot, from(heads);
  for (int h = 0; h < heads; ++h) from[h] = h;
  for (const SharedHead& s : shared) {
    mine.push_back(s.local);
    slot.push_back(s.slot);
    from[s.local] = static_cast<int>(heads) + s.slot;
  }
  const Tensor given = fresh({T, static_cast<int64_t>(shared.size()), D}), common = fresh({T, slots, D});
  kernels::select_heads(stream, {.x = x, .y = given, .map = mine});
  kernels::sum_heads(stream, {.x = given, .y = common, .map = slot});
  tp.all_reduce(common, Reduce::sum, what);
  const Tensor both = fresh({T, heads + slots, D}), out = fresh(x.shape());
  kernels::concat(stream, {.a = x.view({T, heads * D}),
                           .b = common.view({T, slots * D}),
                           .y = both.view({T, (heads + slots) * D})});
  kernels::select_heads(stream, {.x = both, .y = out, .map = from});
  return out;
}

}  // namespace

Var sum_shared_heads(Tape& tape, const Comm& tp, const Var& x, const std::vector<SharedHead>& shared,
                     int slots) {
  if (slots == 0) return x;
  const Var out = tape.output(
      with_shared_summed(tape.stream(), tp, x.value(), shared, slots, "values of shared state heads"),
      tape.wants(x));
  tape.record(out, [=, stream = tape.stream()] {
    x.add_grad(with_shared_summed(stream, tp, out.grad(), shared, slots, "gradients of shared state heads"));
  });
  return out;
}

}  // namespace wuneng
