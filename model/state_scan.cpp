#include "model/state_scan.h"

#include <algorithm>

#include "kernels/boundary.h"

namespace wuneng::ops {

using namespace kernels;

namespace {

Wkv7ReadArgs reading(const Scan& s, const Tensor& from, const Tensor& to) {
  return {.in = s.in,
          .chunk_states = s.chunk_states,
          .removed = s.removed,
          .head_state = s.inputs.head_state,
          .r = from,
          .y = to};
}

// A reading's gradient (dy, r) or (u, dz) has come: the scan takes it when its own turn comes, and has a
// gradient now, even where nobody reads its final state.
void leave(Scan& scan, const Wkv7BackwardArgs::Pair& pair) {
  scan.readings.push_back(pair);
  scan.final.grad_buffer();
}

void scan_backward(const Stream& stream, Scan& scan, bool want_final) {
  const ScanInputs& x = scan.inputs;
  Wkv7BackwardArgs args{.in = scan.in,
                        .chunk_states = scan.chunk_states,
                        .removed = scan.removed,
                        .head_state = x.head_state,
                        .readings = std::move(scan.readings),
                        .dfinal = want_final ? scan.final.grad() : Tensor(),
                        .dlog_w = x.log_w.fresh_grad(),
                        .dk = x.k.fresh_grad(),
                        .dv = x.v.fresh_grad(),
                        .dkappa = x.kappa.fresh_grad(),
                        .drate = x.rate.fresh_grad(),
                        .dinitial = x.initial.needs_grad() ? x.initial.fresh_grad() : Tensor()};
  wkv7_backward(stream, args);
  const auto give = [](const Var& v, const Tensor& g) {
    if (v.needs_grad()) v.add_grad(g);
  };
  give(x.log_w, args.dlog_w);
  give(x.k, args.dk);
  give(x.v, args.dv);
  give(x.kappa, args.dkappa);
  give(x.rate, args.drate);
  give(x.initial, args.dinitial);
  for (const auto& pair : args.readings)
    if (pair.dr.defined()) x.r.add_grad(pair.dr);
}

bool single_tokens(const Segments& segments) {
  return std::all_of(segments.begin(), segments.end(), [](const Wkv7Segment& s) { return s.count == 1; });
}

// One token of each segment: its states after it are the final ones.
ScanPtr step(Tape& tape, const ScanInputs& x, const ScanPtr& scan) {
  const int64_t S = static_cast<int64_t>(x.segments.size()), N = x.k.dim(1), D = x.k.dim(2);
  const Tensor final = Tensor::empty({S, N, D, D}, DType::f32, tape.stream().device), y = like(x.r);
  wkv7_recurrent(tape.stream(), {.in = scan->in,
                                 .head_state = x.head_state,
                                 .r = x.r.value(),
                                 .y = y,
                                 .initial = x.initial.defined() ? x.initial.value() : Tensor(),
                                 .final = final});
  scan->y = Var(y);
  scan->final = Var(final);
  return scan;
}

}  // namespace

ScanPtr state_scan(Tape& tape, const ScanInputs& inputs, bool want_final) {
  const Shape shape = inputs.k.shape();
  const int64_t N = shape[1], D = shape[2];
  const Device device = tape.stream().device;
  auto scan = std::make_shared<Scan>();
  scan->inputs = inputs;
  scan->in = {inputs.log_w.value(), inputs.k.value(),    inputs.v.value(),
              inputs.kappa.value(), inputs.rate.value(), inputs.segments};
  if (!tape.recording() && want_final && single_tokens(inputs.segments)) return step(tape, inputs, scan);
  scan->chunk_states =
      Tensor::empty({wkv7_kept_count(inputs.segments, device.kind), N, D, D}, DType::f32, device);
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
  const Tensor y = like(inputs.r);
  wkv7_read(tape.stream(), reading(*scan, inputs.r.value(), y));

  const bool wanted =
      tape.wants(inputs.log_w, inputs.k, inputs.v, inputs.kappa, inputs.rate, inputs.r, inputs.initial);
  scan->final = tape.output(final, wanted);
  scan->y = tape.output(y, wanted);
  tape.record(scan->final, [=, stream = tape.stream()] { scan_backward(stream, *scan, want_final); });
  tape.record(scan->y, [=] {
    const Var& r = scan->inputs.r;
    leave(*scan, {scan->y.grad(), r.value(), r.needs_grad() ? like(r) : Tensor()});
  });
  return scan;
}

Var read_state_transposed(Tape& tape, const ScanPtr& scan, const Var& u) {
  if (!scan->chunk_states.defined())  // one token of each segment
    return read_boundary(tape, scan->final, u, scan->inputs.segments, scan->inputs.head_state, true);
  const Tensor z = like(u);
  wkv7_read_transposed(tape.stream(), reading(*scan, u.value(), z));
  const Var out = tape.output(z, tape.wants(u, scan->final));
  tape.record(out, [=, stream = tape.stream()] {
    // u's gradient cannot wait for the scan's, which may be waiting for it.
    if (u.needs_grad()) {
      const Tensor du = like(u);
      wkv7_read(stream, reading(*scan, out.grad(), du));
      u.add_grad(du);
    }
    if (scan->final.needs_grad()) leave(*scan, {u.value(), out.grad(), {}});
  });
  return out;
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
