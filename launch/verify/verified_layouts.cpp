#include "launch/verify/verified_layouts.h"

#include <algorithm>
#include <numeric>

#include "model/model_chunks.h"
#include "runtime/error.h"

namespace wuneng {
namespace {

std::string text(const Layout& l) {
  std::vector<std::string> out;
  for (const auto& [name, degree] : {std::pair{"dp", l.dp}, {"pp", l.pp}, {"tp", l.tp}})
    if (degree > 1) out.push_back(fmt::format("{} {}", name, degree));
  return out.empty() ? "one rank" : fmt::format("{}", fmt::join(out, " "));
}

std::vector<std::string> keys(const std::string& at, const Layout& l) {
  return {fmt::format("{}.dp={}", at, l.dp), fmt::format("{}.pp={}", at, l.pp),
          fmt::format("{}.tp={}", at, l.tp)};
}

// Throws where a model has no such shards. It is made without values.
void check_models(const TrainRecipe& r) {
  const auto placement = [](int tp) { return Placement{.tp = Comm::dry(0, tp, "tp"), .allocate = false}; };
  for (int stage = 0; stage < r.layout.pp; ++stage)
    ModelChunks(r.student, r.virtual_stages(), stage, placement(r.layout.tp), r.student_dtype, r.recompute,
                r.alignment_width());
  if (r.runs_teacher())
    Decoder(*r.teacher, placement(r.teacher_layout ? r.teacher_layout->tp : r.layout.tp), r.teacher_dtype);
}

class Layouts {
 public:
  Layouts(const std::string& path, const std::vector<std::string>& overrides, int ranks)
      : path_(path), overrides_(overrides), ranks_(ranks), own_(load({})) {
    streams_ = own_.runs_teacher();
  }

  VerifiedLayouts make(int64_t micro_batches) {
    const std::vector<Layout> degrees = all_degrees();
    int64_t common = own_.layout.dp;
    for (const Layout& l : degrees) common = std::lcm(common, int64_t{l.dp});
    micro_batches_ = micro_batches > 0 ? micro_batches : std::max<int64_t>(2, common);
    require(micro_batches_ % common == 0,
            "expected a multiple of {} micro-batches, for all degrees dp, found {}", common, micro_batches_);
    VerifiedLayouts out{load(settings({}, {})), {}, micro_batches_};
    add_own(out.compared);
    for (const Layout& l : degrees) add(text(l), settings(l, {}), out.compared);
    if (out.reference.device_kind() == DeviceKind::cuda) {
      std::vector<std::string> on_cpu = settings({}, {});
      on_cpu.insert(on_cpu.end(), {"run.device=cpu", "run.activations=auto"});
      if (own_.loss.bf16_logits) on_cpu.emplace_back("loss.bf16_logits=false");
      add("one rank on the CPU", on_cpu, out.compared);
    }
    if (streams_)
      for (const auto& [student, teacher] : {std::pair<Layout, Layout>{{}, {}}, {{.tp = 2}, {.pp = 2}}})
        if (student.size() + teacher.size() <= ranks_)
          add(fmt::format("{}, teacher on ranks of its own: {}", text(student), text(teacher)),
              settings(student, teacher), out.compared);
    return out;
  }

 private:
  TrainRecipe load(const std::vector<std::string>& replaced) const {
    return TrainRecipe::load(path_, replace_settings(overrides_, replaced), TrainRecipe::Use::verify);
  }

  // Of dp, pp and tp: 1 or 2 each, or one of them more.
  std::vector<Layout> all_degrees() const {
    std::vector<Layout> out;
    for (int size = 2; size <= 8; size *= 2)
      for (const int dp : {1, 2})
        for (const int pp : {1, 2})
          for (const int tp : {1, 2})
            if (dp * pp * tp == size && size <= ranks_) out.push_back({dp, pp, tp});
    if (ranks_ > 2) out.insert(out.end(), {{1, 1, ranks_}, {1, ranks_, 1}, {ranks_, 1, 1}});
    return out;
  }

  // Of the student in this layout, its teacher colocated or in one of its own.
  std::vector<std::string> settings(const Layout& l, const std::optional<Layout>& teacher) const {
    std::vector<std::string> out = step();
    const auto add = [&](const std::vector<std::string>& more) {
      out.insert(out.end(), more.begin(), more.end());
    };
    out.push_back(fmt::format("data.accumulation={}", micro_batches_ / l.dp));
    add(keys("layout", l));
    if (l.pp == 1) add({"layout.schedule=1f1b", "layout.chunks=1"});
    if (l == Layout{}) add({"run.recompute=none"});
    if (streams_) add({fmt::format("teacher.mode={}", teacher ? "stream" : "colocated")});
    if (teacher) add(keys("teacher.layout", *teacher));
    return out;
  }

  // Of one step, in which nothing is rounded that would not be rounded on one rank.
  std::vector<std::string> step() const {
    std::vector<std::string> out = {"optimizer.steps=1", "optimizer.warmup=0", "run.eval_every=0",
                                    "run.trace_steps=[]", "run.time_products=false"};
    if (streams_) out.push_back("teacher.stream_dtype=exact");
    return out;
  }

  void add_own(std::vector<VerifiedLayout>& to) const {
    std::vector<std::string> own = step();
    own.push_back(fmt::format("data.accumulation={}", micro_batches_ / own_.layout.dp));
    add("the recipe's own layout", own, to);
    VerifiedLayout& last = to.back();
    if (last.recipe && last.ranks() > ranks_) {
      last.left_out =
          fmt::format("it needs {} ranks, {} {} started", last.ranks(), ranks_, ranks_ == 1 ? "was" : "were");
      last.recipe.reset();
    }
  }

  void add(const std::string& name, const std::vector<std::string>& settings,
           std::vector<VerifiedLayout>& to) const {
    VerifiedLayout layout{name, {}, ""};
    try {
      TrainRecipe recipe = load(settings);
      check_models(recipe);
      layout.recipe = std::move(recipe);
    } catch (const Error& e) {
      layout.left_out = e.what();
    }
    to.push_back(std::move(layout));
  }

  const std::string path_;
  const std::vector<std::string> overrides_;
  const int ranks_;
  const TrainRecipe own_;
  bool streams_ = false;
  int64_t micro_batches_ = 1;
};

}  // namespace

VerifiedLayouts verified_layouts(const std::string& path, const std::vector<std::string>& overrides,
                                 int ranks, int64_t micro_batches) {
  return Layouts(path, overrides, ranks).make(micro_batches);
}

}  // namespace wuneng
