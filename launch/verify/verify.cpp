#include "launch/verify/verify.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "launch/verify/verified_step.h"

namespace wuneng {
namespace {

constexpr int kNoisySteps = 2;

// Of the last place, relative, of the type that activations have.
double unit_in_last_place(DType activations) { return activations == DType::bf16 ? 0x1p-7 : 0x1p-23; }

// One rank's text to all.
std::string broadcast(const Comm& ranks, const std::string& mine) {
  return ranks.all_gather_text(ranks.rank() == 0 ? mine : "", "names of the reference's tensors")[0];
}

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    out.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

// The names and shapes of the reference's tensors on all ranks, and their bounds.
std::vector<Verdict::Entry> known_to_all(const Comm& ranks, const VerifyReference& reference) {
  std::string names;
  std::vector<double> numbers;
  for (const std::string& name : reference.step.names()) {
    names += name + "\n";
    const Shape& shape = reference.values(name).shape();
    numbers.push_back(reference.bounds.at(name));
    numbers.push_back(double(shape.size()));
    numbers.insert(numbers.end(), shape.begin(), shape.end());
  }
  std::vector<Verdict::Entry> out;
  for (std::string& name : lines(broadcast(ranks, names))) out.push_back({std::move(name), {}});
  const double count = ranks.all_reduce(double(numbers.size()), Reduce::max, "numbers of the reference");
  Tensor all = Tensor::zeros({static_cast<int64_t>(count)}, DType::f64);
  if (ranks.rank() == 0) all = Tensor::from(numbers, {static_cast<int64_t>(numbers.size())});
  ranks.broadcast(all, 0, "shapes and bounds of the reference's tensors");
  const double* next = all.data<double>();
  for (Verdict::Entry& entry : out) {
    entry.bound = *next++;
    entry.shape.resize(static_cast<size_t>(*next++));
    for (int64_t& size : entry.shape) size = static_cast<int64_t>(*next++);
  }
  return out;
}

std::string text(const Verdict::Entry& e, const Comm& ranks) {
  if (e.missing)
    return fmt::format("{}: expected all of {} elements on some rank, found {}", e.name,
                       element_count(e.shape), e.difference.elements);
  return fmt::format(
      "{}: differs by {:.3g} where {:.3g} is the bound: rank {}, element {} of {}: expected {:.9g}, found "
      "{:.9g}",
      e.name, e.difference.size, e.bound, ranks.world_ranks()[e.rank], place(e.difference.index, e.shape),
      to_string(e.shape), e.difference.expected, e.difference.found);
}

// Prints what came of a layout; returns whether it agrees with the reference.
bool report(const std::string& name, const Verdict& verdict, const Comm& ranks) {
  const Verdict::Entry* wrong = verdict.first_wrong();
  const bool good = !wrong && verdict.unknown.empty();
  std::string line;
  if (wrong) {
    const auto count = std::count_if(verdict.tensors.begin(), verdict.tensors.end(),
                                     [](const Verdict::Entry& e) { return !e.good(); });
    line = fmt::format("the first of {} wrong tensors of {}: {}", count, verdict.tensors.size(),
                       text(*wrong, ranks));
  } else if (!good) {
    line = fmt::format("computed what one rank does not: {}", verdict.unknown[0]);
  } else {
    const Verdict::Entry& e = verdict.nearest_to_bound();
    line = fmt::format("{} tensors, {}", verdict.tensors.size(),
                       e.share() == 0 ? "equal to the bit"
                                      : fmt::format("{:.2g} of the bound at most: {}", e.share(), e.name));
  }
  if (ranks.rank() == 0) {
    std::printf("%-8s %s: %s\n", good ? "ok" : "DIFFERS", name.c_str(), line.c_str());
    std::fflush(stdout);
  }
  return good;
}

VerifyReference run_reference(const TrainRecipe& r, const Comm& world, Device device) {
  VerifyReference out;
  const Comm alone = world.split(world.rank() == 0 ? 0 : -1, 0, "reference");
  if (world.rank() > 0) return out;
  const double unit = unit_in_last_place(r.activations_on(device, r.student_dtype));
  Observations step = verified_step(r, alone, device);
  std::vector<Observations> noisy;
  for (int i = 0; i < kNoisySteps; ++i) noisy.push_back(verified_step(r, alone, device, unit, i + 1));
  return {std::move(step), noisy, unit, double(r.tokens_per_step())};
}

}  // namespace

VerifyReference::VerifyReference(Observations of_step, const std::vector<Observations>& noisy, double unit,
                                 double tokens)
    : step(std::move(of_step)) {
  for (const std::string& name : step.names()) {
    const Tensor& expected = values(name);
    double largest = 0, moved = 0;
    for (int64_t i = 0; i < expected.numel(); ++i)
      largest = std::max(largest, std::abs(double(expected.f32()[i])));
    for (const Observations& other : noisy)
      moved = std::max(moved, difference(expected, other.parts(name)).size);
    const double longer = name.starts_with(kGradientOf) ? std::sqrt(std::max(1.0, tokens / kTokens)) : 1;
    bounds[name] = kRoundings * longer * std::max(moved, unit * largest);
  }
}

const Verdict::Entry* Verdict::first_wrong() const {
  const auto found = std::find_if(tensors.begin(), tensors.end(), [](const Entry& e) { return !e.good(); });
  return found == tensors.end() ? nullptr : &*found;
}

const Verdict::Entry& Verdict::nearest_to_bound() const {
  return *std::max_element(tensors.begin(), tensors.end(),
                           [](const Entry& a, const Entry& b) { return a.share() < b.share(); });
}

Verdict compare(const Comm& ranks, const VerifyReference& reference, const Observations& mine) {
  Verdict out{known_to_all(ranks, reference), {}};
  constexpr int64_t kNumbers = 5;
  const int64_t count = static_cast<int64_t>(out.tensors.size());
  const Tensor here = Tensor::zeros({count, kNumbers}, DType::f64);
  for (int64_t i = 0; i < count; ++i) {
    const Verdict::Entry& e = out.tensors[i];
    const Tensor expected = ranks.rank() == 0 ? reference.values(e.name) : Tensor::empty(e.shape);
    ranks.broadcast(expected, 0, e.name.c_str());
    const Difference d = difference(expected, mine.parts(e.name));
    const double numbers[kNumbers] = {double(d.elements), d.size, double(d.index), d.expected, d.found};
    std::copy(numbers, numbers + kNumbers, here.data<double>() + i * kNumbers);
  }
  const Tensor all = Tensor::empty({ranks.size(), count, kNumbers}, DType::f64);
  ranks.all_gather(here, all, "differences from the reference");
  for (int64_t i = 0; i < count; ++i) {
    Verdict::Entry& e = out.tensors[i];
    for (int rank = 0; rank < ranks.size(); ++rank) {
      const double* n = all.data<double>() + (rank * count + i) * kNumbers;
      const Difference d{static_cast<int64_t>(n[0]), n[1], static_cast<int64_t>(n[2]), n[3], n[4]};
      if (d.elements == 0) continue;
      if (e.difference.elements == 0 || d.size > e.difference.size) e.rank = rank;
      e.difference.take(d);
    }
    e.missing = e.difference.elements < element_count(e.shape);
  }
  std::string unknown;
  for (const std::string& name : mine.names())
    if (std::none_of(out.tensors.begin(), out.tensors.end(), [&](const auto& e) { return e.name == name; }))
      unknown += name + "\n";
  for (const std::string& text : ranks.all_gather_text(unknown, "tensors that the reference does not have"))
    for (std::string& name : lines(text)) out.unknown.push_back(std::move(name));
  return out;
}

bool verify(const VerifiedLayouts& layouts, const Comm& world) {
  const TrainRecipe& r = layouts.reference;
  const auto device_of = [](const TrainRecipe& recipe) {
    return parse_device(recipe.device, Runtime::local_rank());
  };
  const Device device = device_of(r);
  reserve_gpu_memory(world, device, r.gpu_memory);
  if (world.rank() == 0) {
    std::printf(
        "reference: one rank on %s, %lld micro-batches of %lld tokens; bound: %g times what rounding every "
        "named tensor moves\n",
        to_string(device).c_str(), static_cast<long long>(layouts.micro_batches),
        static_cast<long long>(r.rows()), kRoundings);
    std::fflush(stdout);
  }
  const VerifyReference reference = run_reference(r, world, device);
  bool all_agree = true;
  int compared = 0;
  for (const VerifiedLayout& layout : layouts.compared) {
    if (!layout.recipe) {
      if (world.rank() == 0) std::printf("left out %s: %s\n", layout.name.c_str(), layout.left_out.c_str());
      continue;
    }
    const bool takes_part = world.rank() < layout.ranks();
    const Comm ranks = world.split(takes_part ? 0 : -1, world.rank(), "verify");
    const Observations mine =
        takes_part ? verified_step(*layout.recipe, ranks, device_of(*layout.recipe)) : Observations();
    all_agree = report(layout.name, compare(world, reference, mine), world) && all_agree;
    ++compared;
  }
  require(
      compared > 0,
      "verify: expected a layout to compare with one rank, found none for {} started: mpirun -n 2 or more",
      world.size());
  return all_agree;
}

}  // namespace wuneng
