#include "model/state_scan.h"

#include "kernels/boundary.h"

namespace wuneng::ops {

using namespace kernels;

ScanPtr state_scan(Tape& tape, const ScanInputs& inputs, bool want_final) {
  const Shape shape = inputs.k.shape();
  const int64_t N = shape[1], D = shape[2];
  const Device device = tape.stream().device;
  auto scan = std::make_shared<Scan>();
  scan->inputs = inputs;
  scan->in = {inputs.log_w.value(), inputs.k.value(),    inputs.v.value(),
              inputs.kappa.value(), inputs.rate.value(), inputs.segments};
  scan->chunk_states = Tensor::empty({wkv7_kept_count(inputs.segments, device.kind), N, D, D}, DType::f32, device);
  scan->removed = like(inputs.k);
  const int64_t S = static_cast<int64_t>(inputs.segments.size());
  const Tensor final =
      want_final ? Tensor::empty({S, N, D, D}, DType::f32, device) : Tensor::zeros({1}, DType::f32, device);
  const Tensor initial = inputs.initial.defined() ? inputs.initial.value() : Tensor();
  wkv7_states(tape.stream(), {.in = scan->in,
                              .initial = initial,
                              .chunk_states = scan->chunk_states,
                              .removed = scan->removed,
                              .final = want_final ? final : Tensor()});
  scan->final = tape.output(
      final, tape.wants(inputs.log_w, inputs.k, inputs.v, inputs.kappa, inputs.rate, inputs.initial));
  tape.record(scan->final, [=, stream = tape.stream(), keep = scan] {
    const ScanInputs& x = keep->inputs;
    const Tensor dlog_w = like(x.log_w), dk = like(x.k), dv = like(x.v), dkappa = like(x.kappa),
                 drate = like(x.rate);
    const Tensor dinitial = x.initial.needs_grad() ? like(x.initial) : Tensor();
    wkv7_backward(stream, {.in = keep->in,
                           .chunk_states = keep->chunk_states,
                           .removed = keep->removed,
                           .head_state = x.head_state,
                           .readings = keep->readings,
                           .dfinal = want_final ? keep->final.grad() : Tensor(),
                           .dlog_w = dlog_w,
                           .dk = dk,
                           .dv = dv,
                           .dkappa = dkappa,
                           .drate = drate,
                           .dinitial = dinitial});
    const auto give = [](const Var& v, const Tensor& g) {
      if (v.needs_grad()) v.add_grad(g);
    };
    give(x.log_w, dlog_w);
    give(x.k, dk);
    give(x.v, dv);
    give(x.kappa, dkappa);
    give(x.rate, drate);
    if (dinitial.defined()) x.initial.add_grad(dinitial);
    keep->readings.clear();
  });
  return scan;
}

namespace {

using Reading = void (*)(const Stream&, const Wkv7ReadArgs&);

// forward computes y from x, backward x's gradient from y's: each the other's transposition.
Var read(Tape& tape, const ScanPtr& scan, const Var& x, Reading forward, Reading backward, bool transposed) {
  const Tensor y = like(x);
  const auto args = [](const Scan& s, const Tensor& from, const Tensor& to) {
    return Wkv7ReadArgs{.in = s.in,
                        .chunk_states = s.chunk_states,
                        .removed = s.removed,
                        .head_state = s.inputs.head_state,
                        .r = from,
                        .y = to};
  };
  forward(tape.stream(), args(*scan, x.value(), y));
  const Var out = tape.output(y, tape.wants(x, scan->final));
  tape.record(out, [=, stream = tape.stream()] {
    if (x.needs_grad()) {
      const Tensor dx = like(x);
      backward(stream, args(*scan, out.grad(), dx));
      x.add_grad(dx);
    }
    if (scan->final.needs_grad()) {
      scan->readings.push_back(transposed ? Wkv7BackwardArgs::Pair{x.value(), out.grad()}
                                          : Wkv7BackwardArgs::Pair{out.grad(), x.value()});
      scan->final.grad_buffer();  // the scan has a gradient now, even where nobody reads its final state
    }
  });
  return out;
}

}  // namespace

Var read_state(Tape& tape, const ScanPtr& scan, const Var& r) {
  return read(tape, scan, r, wkv7_read, wkv7_read_transposed, false);
}

Var read_state_transposed(Tape& tape, const ScanPtr& scan, const Var& u) {
  return read(tape, scan, u, wkv7_read_transposed, wkv7_read, true);
}

Var read_boundary(Tape& tape, const Var& states, const Var& r, const Segments& segments,
                  const std::vector<int>& head_state, bool transposed) {
  const Tensor y = like(r);
  boundary_read(tape.stream(), {.states = states.value(),
                                .r = r.value(),
                                .y = y,
                                .segments = segments,
                                .head_state = head_state,
                                .transposed = transposed});
  const Var out = tape.output(y, tape.wants(states, r));
  tape.record(out, [=, stream = tape.stream()] {
    if (r.needs_grad())
      boundary_read(stream, {.states = states.value(),
                             .r = out.grad(),
                             .y = r.gradient().begun(),
                             .segments = segments,
                             .head_state = head_state,
                             .transposed = !transposed,
                             .accumulate = true});
    if (states.needs_grad())
      boundary_read_grad(stream, {.a = transposed ? r.value() : out.grad(),
                                  .b = transposed ? out.grad() : r.value(),
                                  .dstates = states.gradient().begun(),
                                  .segments = segments,
                                  .head_state = head_state});
  });
  return out;
}

}  // namespace wuneng::ops
