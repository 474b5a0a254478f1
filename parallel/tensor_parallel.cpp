#include "parallel/tensor_parallel.h"

#include <cstring>

namespace wuneng {

Var copy_to_ranks(Tape& tape, const Comm& tp, const Var& x) {
  if (tp.size() == 1) return x;
  const Var out = tape.output(x.value(), tape.wants(x));
  tape.record(out, [=] {
    tp.all_reduce(out.grad(), Reduce::sum, "gradient of a layer's input");
    x.add_grad(out.grad());
  });
  return out;
}

Var sum_over_ranks(Tape& tape, const Comm& tp, const Var& x) {
  if (tp.size() == 1) return x;
  tp.all_reduce(x.value(), Reduce::sum, "output of a row-parallel product");
  const Var out = tape.output(x.value(), tape.wants(x));
  tape.record(out, [=] { x.add_grad(out.grad()); });
  return out;
}

namespace {

// Sums the shared heads of x [T, heads, D] over the ranks, in place.
void reduce_shared(const Comm& tp, const Tensor& x, const std::vector<SharedHead>& shared, int slots,
                   const char* what) {
  const int64_t T = x.dim(0), heads = x.dim(1), D = x.dim(2);
  const Tensor buffer = Tensor::zeros({slots, T, D});
  const auto copy = [&](bool out) {
    for (const SharedHead& s : shared)
      for (int64_t t = 0; t < T; ++t) {
        float *mine = x.f32() + (t * heads + s.local) * D, *common = buffer.f32() + (s.slot * T + t) * D;
        std::memcpy(out ? common : mine, out ? mine : common, D * sizeof(float));
      }
  };
  copy(true);
  tp.all_reduce(buffer, Reduce::sum, what);
  copy(false);
}

}  // namespace

Var sum_shared_heads(Tape& tape, const Comm& tp, const Var& x, const std::vector<SharedHead>& shared,
                     int slots) {
  if (slots == 0) return x;
  const Tensor value = x.value().clone();
  reduce_shared(tp, value, shared, slots, "values of shared state heads");
  const Var out = tape.output(value, tape.wants(x));
  tape.record(out, [=] {
    const Tensor gradient = out.grad().clone();
    reduce_shared(tp, gradient, shared, slots, "gradients of shared state heads");
    x.add_grad(gradient);
  });
  return out;
}

}  // namespace wuneng
