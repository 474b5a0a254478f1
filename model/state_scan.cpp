#include "model/state_scan.h"

#include <algorithm>
#include <utility>

#include "kernels/boundary.h"
#include "model/operators.h"

namespace wuneng::ops {

using namespace kernels;

namespace {

Wkv7ReadArgs reading(const ScanGroup& group, const Tensor& from, const Tensor& to) {
  return {.in = group.in,
          .chunk_states = group.chunk_states,
          .removed = group.removed,
          .head_state = group.scans.front()->inputs.head_state,
          .r = from,
          .y = to};
}

int64_t rows_of(const Segments& segments) {
  int64_t rows = 0;
  for (const Wkv7Segment& s : segments) rows += s.count;
  return rows;
}

// Something that the scan's gradient needs has come: the scan takes it when its own turn comes.
void reached(const Scan& scan) {
  if (!scan.ran.has_grad()) scan.ran.set_grad(scan.ran.value());
}

// Leaves every scan its rows of a reading with vectors r and gradient dy [T, R, D].
void leave(const ScanGroup& group, const Tensor& dy, const Tensor& r, bool of_inputs) {
  int64_t begin = 0;
  for (const ScanPtr& scan : group.scans) {
    const int64_t end = begin + rows_of(scan->inputs.segments);
    if (scan->ran.needs_grad()) {
      scan->readings.push_back({dy.rows(begin, end), r.rows(begin, end), of_inputs});
      reached(*scan);
    }
    begin = end;
  }
}

bool wants_gradient(const ScanGroup& group) {
  return std::any_of(group.scans.begin(), group.scans.end(),
                     [](const ScanPtr& scan) { return scan->ran.needs_grad(); });
}

void scan_backward(const Stream& stream, Scan& scan) {
  const ScanInputs& x = scan.inputs;
  Wkv7BackwardArgs args{.in = scan.in,
                        .chunk_states = scan.chunk_states,
                        .removed = scan.removed,
                        .head_state = x.head_state,
                        .dfinal = std::move(scan.dfinal),
                        .dlog_w = x.log_w.fresh_grad(),
                        .dk = x.k.fresh_grad(),
                        .dv = x.v.fresh_grad(),
                        .dkappa = x.kappa.fresh_grad(),
                        .drate = x.rate.fresh_grad(),
                        .dinitial = x.initial.needs_grad() ? x.initial.fresh_grad() : Tensor()};
  for (const Scan::Reading& reading : std::exchange(scan.readings, {}))
    args.readings.push_back(
        {reading.dy, reading.r, reading.of_inputs && x.r.needs_grad() ? x.r.fresh_grad() : Tensor()});
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
void step(Tape& tape, Scan& scan) {
  const ScanInputs& x = scan.inputs;
  const int64_t S = static_cast<int64_t>(x.segments.size()), N = x.k.dim(1), D = x.k.dim(2);
  const Tensor final = Tensor::empty({S, N, D, D}, DType::f32, tape.stream().device), y = like(x.r);
  wkv7_recurrent(tape.stream(), {.in = scan.in,
                                 .head_state = x.head_state,
                                 .r = x.r.value(),
                                 .y = y,
                                 .initial = x.initial.defined() ? x.initial.value() : Tensor(),
                                 .final = final});
  scan.y = Var(y);
  scan.final = Var(final);
}

// The scan's places in the group's tensors, which are made with the first scan.
void take_places(const Tape& tape, ScanGroup& group, Scan& scan, bool alone) {
  const Device device = tape.stream().device;
  const Segments& segments = scan.inputs.segments;
  const int64_t N = scan.in.k.dim(1), D = scan.in.k.dim(2), kept = wkv7_kept_count(segments, device.kind);
  if (alone) {
    scan.chunk_states = Tensor::empty({kept, N, D, D}, DType::f32, device);
    scan.removed = like(scan.inputs.k);
    group.in = scan.in;
    group.chunk_states = scan.chunk_states;
    group.removed = scan.removed;
    return;
  }
  const int64_t first = rows_of(group.in.segments),
                first_kept = wkv7_kept_count(group.in.segments, device.kind), rows = rows_of(segments);
  scan.chunk_states = group.chunk_states.rows(first_kept, first_kept + kept);
  scan.removed = group.removed.rows(first, first + rows);
  if (const Tensor place = place_of_value(group, rows); place.raw() != scan.in.v.raw())
    place.copy_from(scan.in.v);
  for (const Wkv7Segment& s : segments) group.in.segments.push_back({first + s.begin, s.count});
}

}  // namespace

ScanGroupPtr scan_group(const Var& log_w, const Var& k, const Var& kappa, const Var& rate, const Var& r,
                        const std::vector<Segments>& segments) {
  auto group = std::make_shared<ScanGroup>();
  group->r = r;
  if (segments.size() == 1) return group;  // its scan's own tensors do
  const Device device = k.value().device();
  int64_t kept = 0;
  for (const Segments& of_scan : segments) kept += wkv7_kept_count(of_scan, device.kind);
  group->in = {log_w.value(), k.value(), like(k), kappa.value(), rate.value(), {}};
  group->chunk_states = Tensor::empty({kept, k.dim(1), k.dim(2), k.dim(2)}, DType::f32, device);
  group->removed = like(k);
  return group;
}

Tensor place_of_value(const ScanGroup& group, int64_t rows) {
  if (!group.in.v.defined()) return {};
  const int64_t first = rows_of(group.in.segments);
  return group.in.v.rows(first, first + rows);
}

ScanPtr next_scan(Tape& tape, ScanGroup& group, const ScanInputs& inputs, bool want_final) {
  auto scan = std::make_shared<Scan>();
  scan->inputs = inputs;
  scan->in = {inputs.log_w.value(), inputs.k.value(),    inputs.v.value(),
              inputs.kappa.value(), inputs.rate.value(), inputs.segments};
  group.scans.push_back(scan);
  const bool alone = !group.in.v.defined();
  if (alone && tape.by_row() && want_final && single_tokens(inputs.segments)) {
    step(tape, *scan);
    return scan;
  }
  take_places(tape, group, *scan, alone);
  const int64_t S = static_cast<int64_t>(inputs.segments.size()), N = inputs.k.dim(1), D = inputs.k.dim(2);
  const Tensor final = want_final ? Tensor::empty({S, N, D, D}, DType::f32, tape.stream().device) : Tensor();
  wkv7_states(tape.stream(), {.in = scan->in,
                              .initial = inputs.initial.defined() ? inputs.initial.value() : Tensor(),
                              .chunk_states = scan->chunk_states,
                              .removed = scan->removed,
                              .final = final});
  const bool wanted =
      tape.wants(inputs.log_w, inputs.k, inputs.v, inputs.kappa, inputs.rate, inputs.r, inputs.initial);
  scan->ran = tape.output(Tensor::empty({1}), wanted);
  tape.record(scan->ran, [=, stream = tape.stream()] { scan_backward(stream, *scan); });
  if (!want_final) return scan;
  scan->final = tape.output(final, wanted);
  tape.record(scan->final, [=] {
    scan->dfinal = scan->final.grad();
    reached(*scan);
  });
  return scan;
}

ScanGroupPtr state_scan(Tape& tape, const ScanInputs& x, bool want_final) {
  const ScanGroupPtr group = scan_group(x.log_w, x.k, x.kappa, x.rate, x.r, {x.segments});
  next_scan(tape, *group, x, want_final);
  return group;
}

Var read_state(Tape& tape, const ScanGroupPtr& group) {
  if (group->scans.front()->y.defined()) return group->scans.front()->y;
  const Tensor y = like(group->r);
  wkv7_read(tape.stream(), reading(*group, group->r.value(), y));
  const Var out = tape.output(y, wants_gradient(*group));
  tape.record(out, [=] { leave(*group, out.grad(), group->r.value(), true); });
  return out;
}

Var read_state_transposed(Tape& tape, const ScanGroupPtr& group, const Var& u) {
  const Scan& first = *group->scans.front();
  if (first.y.defined())  // one token of each segment
    return read_boundary(tape, first.final, u, first.inputs.segments, first.inputs.head_state, true);
  const Tensor z = like(u);
  wkv7_read_transposed(tape.stream(), reading(*group, u.value(), z));
  const Var out = tape.output(z, tape.wants(u) || wants_gradient(*group));
  tape.record(out, [=, stream = tape.stream()] {
    // u's gradient cannot wait for the scans', which may be waiting for it.
    if (u.needs_grad()) {
      const Tensor du = like(u);
      wkv7_read(stream, reading(*group, out.grad(), du));
      u.add_grad(du);
    }
    leave(*group, u.value(), out.grad(), false);
  });
  return out;
}

Var read_boundary(Tape& tape, const Var& states, const Var& r, const Segments& segments,
                  const std::vector<int>& head_state, bool transposed, const Parameter* norm, float eps) {
  const Tensor y = like(r), normed = norm ? like(r) : Tensor();
  boundary_read(tape.stream(), {.states = states.value(),
                                .r = r.value(),
                                .y = y,
                                .segments = segments,
                                .head_state = head_state,
                                .transposed = transposed,
                                .weight = norm ? norm->var.value() : Tensor(),
                                .eps = eps,
                                .normed = normed});
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
  return norm ? rms_norm(tape, out, norm, eps, normed) : out;
}

}  // namespace wuneng::ops
