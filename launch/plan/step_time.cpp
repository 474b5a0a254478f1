#include "launch/plan/step_time.h"

#include <algorithm>

#include "parallel/schedule_times.h"

namespace wuneng {
namespace {

double sent(const dry_run::Counts& counts, const std::string& group) {
  const auto found = counts.sent.find(group);
  return found == counts.sent.end() ? 0 : found->second;
}

// The largest of named parts: "products, 61%".
std::string largest(const std::vector<std::pair<std::string, double>>& parts, double all) {
  const auto most = std::max_element(parts.begin(), parts.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  return fmt::format("{}, {:.0f}%", most->first, 100 * most->second / all);
}

std::vector<std::pair<std::string, double>> parts_of(const ComputeTime& t, double times) {
  const double gpu = t.products + t.attention + t.wkv7 + t.passes;
  return {
      {"products", times * t.products},    {"attention", times * t.attention},
      {"WKV-7", times * t.wkv7},           {"memory passes", times * t.passes},
      {"sums over tp", times * t.tp_sums}, {"the host's launches", times * std::max(0.0, t.launches - gpu)}};
}

const RankUse& slowest(const std::vector<RankUse>& ranks, const Gpu& gpu) {
  return *std::max_element(ranks.begin(), ranks.end(), [&](const RankUse& a, const RankUse& b) {
    return compute_time(a.counts, gpu).all() < compute_time(b.counts, gpu).all();
  });
}

}  // namespace

double ComputeTime::all() const { return std::max(products + attention + wkv7 + passes, launches) + tp_sums; }

ComputeTime compute_time(const dry_run::Counts& counts, const Gpu& gpu) {
  ComputeTime t;
  int64_t launches = 0;
  for (const auto& [kernel, calls] : counts.kernels) {
    const double rate = kernel.starts_with("attention") ? gpu.attention
                        : kernel.starts_with("wkv7")    ? gpu.wkv7
                                                        : gpu.products;
    double& part = kernel.starts_with("attention") ? t.attention
                   : kernel.starts_with("wkv7")    ? t.wkv7
                                                   : t.products;
    part += calls.flops / rate;
    launches += calls.count;
  }
  t.passes = 3 * counts.made / gpu.passes;
  t.launches = double(launches) * gpu.launch;
  t.tp_sums = sent(counts, "tp") / gpu.node;
  return t;
}

StepTime step_time(const TrainRecipe& r, const std::vector<RankUse>& student, int micro_batches,
                   const std::vector<RankUse>& teacher, const Gpu& gpu) {
  const RankUse& rank = slowest(student, gpu);
  const ComputeTime compute = compute_time(rank.counts, gpu);
  const double micro_batch = compute.all() / micro_batches, count = double(r.accumulation);
  // A backward takes twice a forward, and what it computes again.
  const double forward = micro_batch / (3 + repeated_forwards(r.recompute));
  const ActionTimes times{.forward = forward,
                          .backward_input = micro_batch - 2 * forward,
                          .backward_weight = forward,
                          .message = double(r.rows() * r.student.hidden_size * 2) / gpu.network};
  const bool passes = r.objective->passes_hidden_state();
  const double pipeline =
      passes ? simulate(*r.schedule, r.virtual_stages(), static_cast<int>(r.accumulation), times).all
             : count * micro_batch;
  const double update = 2 * double(rank.optimizer + rank.weights + rank.gradients) / gpu.passes;
  const bool in_a_node = r.layout.size() <= gpu.gpus_a_node;
  const double over_dp = sent(rank.counts, "dp") / (in_a_node ? gpu.node : gpu.network),
               exposed = std::max(0.0, over_dp - (micro_batch - forward));
  StepTime out;
  out.student = pipeline + update + exposed;
  out.step = out.student;
  auto parts = parts_of(compute, count / micro_batches);
  parts.push_back({"waits of the pipeline", pipeline - count * micro_batch});
  parts.push_back({"the update", update});
  parts.push_back({"sums over dp", exposed});
  out.binds = "the student: " + largest(parts, out.student);
  if (teacher.empty()) return out;
  const ComputeTime of_teacher = compute_time(slowest(teacher, gpu).counts, gpu);
  const double served = count * r.layout.dp / r.teacher_layout->dp;  // micro-batches of a replica
  out.teacher = served * of_teacher.all();
  if (out.teacher > out.student) {
    out.step = out.teacher;
    out.binds = "the teacher: " + largest(parts_of(of_teacher, served), out.teacher);
  }
  return out;
}

}  // namespace wuneng
