#include "launch/train/step_trace.h"

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>

#include "runtime/clock_offset.h"
#include "runtime/file.h"
#include "runtime/host.h"

namespace wuneng {
namespace {

using trace::Event;
using trace::Kind;

std::string line(const nlohmann::json& object) { return object.dump() + ",\n"; }

// "X": a span; microseconds. pid: the rank.
std::string to_json(const Event& e, int rank, int64_t offset) {
  return line({{"name", e.name},
               {"cat", trace::to_string(e.kind)},
               {"ph", "X"},
               {"ts", double(e.begin + offset) / 1e3},
               {"dur", double(e.end - e.begin) / 1e3},
               {"pid", rank},
               {"tid", e.thread}});
}

std::string name_of_rank(const Mesh& m) {
  const std::string text =
      fmt::format("{} dp{} pp{} tp{} on {}", m.role == Role::student ? "student" : "teacher", m.dp_rank,
                  m.pp_rank, m.tp_rank, host_name());
  return line({{"name", "process_name"}, {"ph", "M"}, {"pid", m.world.rank()}, {"args", {{"name", text}}}});
}

// The text of each rank of the group, on its first one, in their order.
void gather(const Comm& ranks, const std::string& mine, const std::function<void(const std::string&)>& take) {
  constexpr int kTag = 0;
  const Tensor size = Tensor::from<int64_t>({static_cast<int64_t>(mine.size())}, {1});
  if (ranks.rank() > 0) {
    const Tensor text = Tensor::empty({static_cast<int64_t>(mine.size())}, DType::u8);
    std::copy(mine.begin(), mine.end(), static_cast<char*>(text.raw()));
    ranks.send(size, 0, kTag, "trace: size");
    ranks.send(text, 0, kTag, "trace: events");
    return;
  }
  take(mine);
  for (int rank = 1; rank < ranks.size(); ++rank) {
    ranks.recv(size, rank, kTag, "trace: size");
    const Tensor text = Tensor::empty({size.data<int64_t>()[0]}, DType::u8);
    ranks.recv(text, rank, kTag, "trace: events");
    take(std::string(static_cast<const char*>(text.raw()), text.numel()));
  }
}

}  // namespace

StepTimes StepTimes::of(std::vector<Event> events) {
  std::stable_sort(events.begin(), events.end(), [](const Event& a, const Event& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end > b.end;
  });
  StepTimes out;
  const auto place = [&out](Kind kind) -> double& {
    double* const places[] = {&out.other,   &out.compute, &out.communication,
                              &out.waiting, &out.stream,  &out.saving};
    return *places[static_cast<int>(kind)];
  };
  std::vector<Event> open;
  for (Event& e : events) {
    while (!open.empty() && open.back().end <= e.begin) open.pop_back();
    const double seconds = double(e.end - e.begin) / 1e9;
    if (!open.empty()) {
      const Kind around = open.back().kind;
      if (around == Kind::stream || around == Kind::saving) e.kind = around;
      place(around) -= seconds;
    }
    place(e.kind) += seconds;
    open.push_back(e);
  }
  return out;
}

std::string StepTimes::text() const {
  const double all = compute + communication + waiting + stream + saving + other;
  std::string out = fmt::format("{:.4g} s:", all);
  const std::pair<const char*, double> parts[] = {{"compute", compute}, {"communication", communication},
                                                  {"waiting", waiting}, {"stream", stream},
                                                  {"saving", saving},   {"other", other}};
  const char* separator = " ";
  for (const auto& [name, seconds] : parts) {
    out += fmt::format("{}{} {:.1f}%", separator, name, all > 0 ? 100 * seconds / all : 0);
    separator = ", ";
  }
  return out;
}

StepTrace::StepTrace(const TrainRecipe& recipe, const Mesh& mesh)
    : mesh_(mesh), path_(recipe.out + "/trace.json") {
  if (recipe.trace_steps.empty()) return;
  first_ = recipe.trace_steps[0];
  last_ = recipe.trace_steps[1];
  offset_ = clock_offset(mesh.world, trace::now);
  events_ = name_of_rank(mesh);
}

void StepTrace::begin(int64_t step) {
  if (!traces(step)) return;
  trace::record(true);
  step_.emplace(Kind::step, fmt::format("step {}", step));
}

std::string StepTrace::end(int64_t step) {
  if (!traces(step)) return {};
  traced_ = true;
  step_.reset();
  if (step == last_) trace::record(false);
  std::vector<Event> events = trace::take();
  for (const Event& e : events) events_ += to_json(e, mesh_.world.rank(), offset_);
  if (mesh_.role == Role::teacher) return {};
  const auto whole =
      std::find_if(events.begin(), events.end(), [](const Event& e) { return e.kind == Kind::step; });
  // Recording goes on between two traced steps.
  std::erase_if(events, [from = whole->begin](const Event& e) { return e.thread != 0 || e.begin < from; });
  const StepTimes t = StepTimes::of(std::move(events));
  const Tensor all =
      Tensor::from<double>({t.compute, t.communication, t.waiting, t.stream, t.saving, t.other}, {6});
  mesh_.role_comm.all_reduce(all, Reduce::sum, "where the step's time went");
  const double *sum = all.data<double>(), n = mesh_.role_comm.size();
  if (step == last_) write(mesh_.role_comm);
  return fmt::format(
      "step {}: {}", step,
      StepTimes{sum[0] / n, sum[1] / n, sum[2] / n, sum[3] / n, sum[4] / n, sum[5] / n}.text());
}

void StepTrace::finish() {
  trace::record(false);
  if (last_ < first_) return;
  // A run that goes on behind these steps leaves the file as it is.
  if (mesh_.world.all_reduce(traced_ && mesh_.role == Role::student, Reduce::max,
                             "whether steps were traced") > 0)
    write(mesh_.world);
}

void StepTrace::write(const Comm& ranks) const {
  std::string text = "{\"traceEvents\": [\n";
  gather(ranks, events_, [&](const std::string& events) { text += events; });
  if (ranks.rank() > 0) return;
  text.resize(text.size() - 2);  // the last comma
  write_file_durably(path_, text + "\n]}\n");
}

}  // namespace wuneng
