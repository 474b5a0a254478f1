#include "launch/plan/layouts.h"

#include <algorithm>

#include "parallel/stream_plan.h"

namespace wuneng {
namespace {

// Degrees of parallelism that are tried: powers of two up to `most`.
std::vector<int> degrees(int64_t most) {
  std::vector<int> out;
  for (int64_t n = 1; n <= most; n *= 2) out.push_back(static_cast<int>(n));
  return out;
}

// First, middle and last stage: others are as one of them.
std::vector<int> kinds_of_stages(int stages) {
  std::vector<int> out = {0};
  if (stages > 2) out.push_back(stages / 2);
  if (stages > 1) out.push_back(stages - 1);
  return out;
}

// Of the rank with most; with `times` as many buffers for the teacher's signals.
int64_t peak(const std::vector<RankUse>& ranks, double times = 1) {
  double most = 0;
  for (const RankUse& use : ranks)
    most = std::max(most, double(use.peak) + (times - 1) * double(use.teacher));
  return static_cast<int64_t>(most);
}

class Planner {
 public:
  Planner(const std::string& path, const std::vector<std::string>& overrides, int gpus, const Gpu& gpu)
      : path_(path), overrides_(overrides), gpus_(gpus), gpu_(gpu), base_(load({})) {
    // Of a colocated teacher the plan is for one that streams.
    separate_ = base_.runs_teacher();
    sequences_ = base_.layout.dp * base_.accumulation * base_.micro_batch;
  }

  std::vector<LayoutPlan> run() {
    require(gpus_ > 1 || !separate_,
            "expected at least 2 GPUs, for the teacher has ranks of its own, found {}", gpus_);
    for (const int tp : degrees(std::min<int64_t>(gpu_.gpus_a_node, base_.student.num_heads)))
      for (const int pp : degrees(base_.student.num_layers))
        for (int dp = 1; dp * pp * tp <= gpus_ - (separate_ ? 1 : 0); ++dp)
          if (sequences_ % (dp * base_.micro_batch) == 0) try_student({dp, pp, tp});
    require(!plans_.empty(), "expected a layout of {} GPUs, found none{}", gpus_,
            smallest_ == 0
                ? fmt::format(": a step of {} sequences has no equal parts for them", sequences_)
                : fmt::format(" that fits into {:.1f} GiB each: the smallest needs {:.1f} GiB on a rank",
                              gpu_.memory / kGiB, double(smallest_) / kGiB));
    std::stable_sort(plans_.begin(), plans_.end(),
                     [](const LayoutPlan& a, const LayoutPlan& b) { return a.time.step < b.time.step; });
    return std::move(plans_);
  }

 private:
  // The settings of a layout replace the command line's.
  TrainRecipe load(const std::vector<std::string>& settings) const {
    return TrainRecipe::load(path_, replace_settings(overrides_, settings), TrainRecipe::Use::plan);
  }

  static std::vector<std::string> keys(const std::string& at, const Layout& l) {
    return {fmt::format("{}.dp={}", at, l.dp), fmt::format("{}.pp={}", at, l.pp),
            fmt::format("{}.tp={}", at, l.tp)};
  }

  bool fits(int64_t bytes) {
    if (double(bytes) <= gpu_.memory) return true;
    smallest_ = smallest_ == 0 ? bytes : std::min(smallest_, bytes);
    return false;
  }

  void try_student(const Layout& l) {
    const int left = gpus_ - l.size();
    if (separate_ ? left == 0 : left != 0) return;
    std::vector<std::string> settings = keys("layout", l);
    const int64_t accumulation = sequences_ / (l.dp * base_.micro_batch);
    settings.push_back(fmt::format("data.accumulation={}", accumulation));
    settings.push_back("layout.schedule=auto");
    if (separate_) settings.push_back("teacher.mode=stream");
    std::vector<RankUse> ranks;
    int replicas = 1;  // of the teacher, that have buffers on `ranks`
    std::optional<LayoutPlan> best;
    // As many micro-batches as fill the pipeline: more hold no more.
    const int dry = static_cast<int>(std::min<int64_t>(accumulation, 2 * l.pp + 1));
    for (const Layout& teacher : separate_ ? teachers(left) : std::vector<Layout>{{}}) {
      std::vector<std::string> all = settings;
      if (separate_)
        for (const std::string& key : keys("teacher.layout", teacher)) all.push_back(key);
      TrainRecipe r = load(all);
      if (ranks.empty()) {
        TrainRecipe shorter = r;
        shorter.accumulation = dry;
        for (const int stage : kinds_of_stages(l.pp)) ranks.push_back(dry_student_rank(shorter, stage, 0));
        replicas = serving(l, teacher);
      }
      const int64_t bytes = peak(ranks, double(serving(l, teacher)) / replicas);
      if (!fits(bytes)) continue;
      const std::vector<RankUse> of_teacher = separate_ ? teacher_ranks(r) : std::vector<RankUse>();
      if (separate_ && !fits(peak(of_teacher))) continue;
      LayoutPlan plan{all,
                      l,
                      r.teacher_layout,
                      r.schedule->name,
                      bytes,
                      peak(of_teacher),
                      step_time(r, ranks, dry, of_teacher, gpu_)};
      if (!best || plan.time.teacher < best->time.teacher) best = std::move(plan);
    }
    if (best) plans_.push_back(std::move(*best));
  }

  static int serving(const Layout& student, const Layout& teacher) {
    return replicas_that_serve({student.dp, teacher.dp});
  }

  std::vector<Layout> teachers(int ranks) const {
    std::vector<Layout> out;
    for (const int tp : degrees(std::min<int64_t>(gpu_.gpus_a_node, base_.teacher->num_heads)))
      for (const int pp : degrees(base_.teacher->num_layers))
        if (ranks % (tp * pp) == 0) out.push_back({ranks / (tp * pp), pp, tp});
    return out;
  }

  const std::vector<RankUse>& teacher_ranks(const TrainRecipe& r) {
    const Layout& l = *r.teacher_layout;
    std::vector<RankUse>& out = teachers_[{l.pp, l.tp, r.layout.tp}];
    if (out.empty())
      for (const int stage : kinds_of_stages(l.pp)) out.push_back(dry_teacher_rank(r, stage, 0));
    return out;
  }

  const std::string path_;
  const std::vector<std::string> overrides_;
  const int gpus_;
  const Gpu& gpu_;
  const TrainRecipe base_;
  bool separate_ = false;
  int64_t sequences_ = 0;
  int64_t smallest_ = 0;  // bytes of what did not fit
  std::map<std::tuple<int, int, int>, std::vector<RankUse>> teachers_;
  std::vector<LayoutPlan> plans_;
};

}  // namespace

std::vector<LayoutPlan> plan_layouts(const std::string& recipe, const std::vector<std::string>& overrides,
                                     int gpus, const Gpu& gpu) {
  return Planner(recipe, overrides, gpus, gpu).run();
}

}  // namespace wuneng
