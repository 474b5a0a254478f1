#include "model/recordings.h"

#include <algorithm>
#include <exception>

#include "kernels/rows.h"

namespace wuneng {
namespace {

using Kept = RecordingMemory::Kept;
using Copies = std::vector<kernels::CopyTensorsArgs::Copy>;

// A tensor that recorded work has at a fixed address.
struct Place {
  void* data = nullptr;  // null: there is none
  Shape shape;
  DType dtype = DType::f32;

  Place() = default;
  explicit Place(const Tensor& t) : data(t.raw()), shape(t.shape()), dtype(t.dtype()) {}
  Tensor tensor(std::shared_ptr<void> owner, Device device) const {
    return Tensor::wrap(data, shape, dtype, std::move(owner), device);
  }
};

// Has the memory until it ends.
std::shared_ptr<void> take(const std::shared_ptr<Kept>& kept) {
  kept->taken = true;
  return {kept.get(), [kept](void*) { kept->taken = false; }};
}

// What recorded work of these weights has fixed; empty where a gradient has no memory yet.
std::vector<const void*> addresses_of(const std::vector<ops::P>& weights) {
  std::vector<const void*> out;
  for (const ops::P weight : weights) {
    if (!weight) continue;
    out.push_back(weight->var.value().raw());
    if (!weight->var.needs_grad()) continue;
    if (!weight->var.has_grad()) return {};
    out.push_back(weight->var.grad().raw());
  }
  return out;
}

std::vector<bool> wanted(const std::vector<Var>& inputs) {
  std::vector<bool> out;
  for (const Var& v : inputs) out.push_back(v.needs_grad());
  return out;
}

}  // namespace

struct Recordings::Graphs {
  std::shared_ptr<Kept> kept;
  std::vector<const void*> weights;  // addresses_of
  std::vector<bool> wanted;          // of the inputs: those with a gradient
  bool trains = false;               // have the outputs gradients?
  cuda::Graph forward, input_half, weight_half;
  std::vector<Place> inputs, outputs;                    // in `kept`
  std::vector<Place> output_gradients, input_gradients;  // in the scratch memory
};

struct RecordingMemory::WeightHalf {
  Recordings::GraphsPtr graphs;
  std::shared_ptr<void> taken;  // the memory of what the forward has left
  bool formed = false;

  WeightHalf(Recordings::GraphsPtr graphs, std::shared_ptr<void> taken)
      : graphs(std::move(graphs)), taken(std::move(taken)) {}
};

void RecordingMemory::form(const std::shared_ptr<WeightHalf>& half) {
  if (!half || half->formed) return;
  if (half->graphs->weight_half.size() > 0) half->graphs->weight_half.launch();
  half->formed = true;
  half->taken = {};
  if (waiting == half) waiting = {};
}

std::vector<Var> Recordings::run(Tape& tape, const void* at, const std::vector<Var>& inputs,
                                 const std::vector<ops::P>& weights, const Recomputed& function) {
  auto& site = sites_[at];
  if (!site) site = std::make_shared<Site>();
  const std::vector<const void*> addresses = addresses_of(weights);
  if (!site->ran || site->failed || addresses.empty()) {
    if (tape.recording()) tape.mark([site] { site->ran = true; });  // when all that follows is backward
    return function(tape, inputs);
  }
  for (const GraphsPtr& graphs : site->graphs)
    if (!graphs->kept->taken && graphs->weights == addresses &&
        (!tape.recording() || graphs->wanted == wanted(inputs)))
      return launch(tape, graphs, inputs);
  if (!tape.recording()) return function(tape, inputs);
  auto& all = memory_->kept;
  auto free = std::find_if(all.begin(), all.end(), [](const auto& kept) { return !kept->taken; });
  if (free == all.end()) {
    all.push_back(std::make_shared<Kept>(Kept{std::make_shared<cuda::GraphPool>(memory_->device.index)}));
    free = all.end() - 1;
  }
  try {
    const auto graphs = record(tape.stream(), *free, inputs, function);
    graphs->weights = addresses;
    site->graphs.push_back(graphs);
  } catch (const std::exception& error) {
    site->failed = true;
    memory_->notes.push_back(fmt::format(
        "chunk steps of {}: launched one by one in a layer that could not be recorded as a CUDA graph: {}",
        documents_, error.what()));
    return function(tape, inputs);
  }
  if (!std::exchange(reported_, true))
    memory_->notes.push_back(fmt::format("chunk steps of {} run as CUDA graphs", documents_));
  return launch(tape, site->graphs.back(), inputs);
}

std::shared_ptr<Recordings::Graphs> Recordings::record(const Stream& stream,
                                                       const std::shared_ptr<Kept>& kept,
                                                       const std::vector<Var>& inputs,
                                                       const Recomputed& function) const {
  const int index = memory_->device.index;
  auto graphs = std::make_shared<Graphs>();
  graphs->kept = kept;
  graphs->wanted = wanted(inputs);
  Tape tape(stream);
  std::vector<Var> in, out;
  graphs->forward = cuda::Graph::record(
      index,
      [&] {
        for (const Var& v : inputs) in.emplace_back(like(v), v.needs_grad());
        out = function(tape, in);
      },
      kept->pool);
  for (const Var& v : in) graphs->inputs.emplace_back(v.value());
  for (const Var& v : out) graphs->outputs.emplace_back(v.value());
  graphs->trains = out[0].needs_grad();
  std::vector<Tensor> given;
  graphs->input_half = cuda::Graph::record(
      index,
      [&] {
        for (const Var& v : out) given.push_back(v.fresh_grad());
        for (size_t i = 0; i < out.size(); ++i) out[i].set_grad(given[i]);
        tape.backward_inputs();
      },
      memory_->scratch);
  for (const Tensor& t : given) graphs->output_gradients.emplace_back(t);
  for (const Var& v : in)
    graphs->input_gradients.push_back(v.needs_grad() && v.has_grad() ? Place(v.grad()) : Place());
  graphs->weight_half = cuda::Graph::record(
      index, [&] { tape.backward_weights(); }, memory_->scratch);
  return graphs;
}

std::vector<Var> Recordings::launch(Tape& tape, const GraphsPtr& graphs,
                                    const std::vector<Var>& inputs) const {
  const std::shared_ptr<RecordingMemory> memory = memory_;
  const Device device = memory->device;
  const std::shared_ptr<void> taken = take(graphs->kept);
  Copies copies;
  for (size_t i = 0; i < inputs.size(); ++i)
    copies.push_back({inputs[i].value(), graphs->inputs[i].tensor(taken, device)});
  kernels::copy_tensors(tape.stream(), {copies});
  graphs->forward.launch();
  std::vector<Var> out;
  for (const Place& place : graphs->outputs)
    out.push_back(tape.output(place.tensor(taken, device), graphs->trains));

  const auto half = std::make_shared<RecordingMemory::WeightHalf>(graphs, taken);
  const auto gradients = std::make_shared<std::vector<Tensor>>(out.size());
  tape.record(
      out[0],
      [=, stream = tape.stream(), first = out[0]] {
        (*gradients)[0] = first.grad();
        memory->form(memory->waiting);
        Copies given, made;
        for (size_t i = 0; i < gradients->size(); ++i) {
          const Tensor place = graphs->output_gradients[i].tensor(memory, device);
          Tensor& gradient = (*gradients)[i];
          gradient.defined() ? given.push_back({std::move(gradient), place}) : place.zero();
          gradient = {};
        }
        kernels::copy_tensors(stream, {given});
        graphs->input_half.launch();
        memory->waiting = half;
        for (size_t i = 0; i < inputs.size(); ++i)
          if (const Place& place = graphs->input_gradients[i]; place.data)
            made.push_back({place.tensor(memory, device), inputs[i].fresh_grad()});
        kernels::copy_tensors(stream, {made});
        size_t next = 0;
        for (size_t i = 0; i < inputs.size(); ++i)
          if (graphs->input_gradients[i].data) inputs[i].add_grad(made[next++].to);
      },
      [=](const Tensor&) { memory->form(half); });
  record_other_results(tape, out, gradients);
  return out;
}

}  // namespace wuneng
