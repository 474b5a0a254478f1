#include "launch/train/recipe_checks.h"

#include <unistd.h>

#include <filesystem>

#include "launch/train/signal_cache.h"
#include "launch/train/teacher_placement.h"
#include "model/parameter_count.h"
#include "runtime/checkpoint/root.h"
#include "runtime/launcher.h"

namespace wuneng {
namespace {

namespace fs = std::filesystem;

void check_stages(const TrainRecipe& r, const char* key, const Layout& layout, int64_t layers) {
  require(layout.pp <= layers, "{}: {}.pp = {}: expected at most {}, the number of the model's layers",
          r.path, key, layout.pp, layers);
}

void check_sizes(const TrainRecipe& r) {
  constexpr int64_t kMostRows = int64_t{1} << 30, kMostTokens = int64_t{1} << 50, kMostPasses = 100'000'000;
  require(r.rows() <= kMostRows, "{}: data.seq_len = {} x data.micro_batch = {}: expected at most {} tokens",
          r.path, r.seq_len, r.micro_batch, kMostRows);
  require(r.tokens_per_step() <= kMostTokens,
          "{}: data.seq_len = {} x data.micro_batch = {} x data.accumulation = {} x layout.dp = {}: expected "
          "at most "
          "{} tokens",
          r.path, r.seq_len, r.micro_batch, r.accumulation, r.layout.dp, kMostTokens);
  require(
      r.eval_every == 0 || (r.steps() / r.eval_every + 2) * r.eval_batches <= kMostPasses,
      "{}: optimizer.steps = {}, run.eval_every = {}, run.eval_batches = {}: expected at most {} evaluated "
      "micro-batches",
      r.path, r.steps(), r.eval_every, r.eval_batches, kMostPasses);
  require(r.learning_rate.warmup <= r.steps(), "{}: optimizer.warmup = {} is more than optimizer.steps = {}",
          r.path, r.learning_rate.warmup, r.steps());
  require(r.trace_steps.empty() || (r.trace_steps.size() == 2 && r.trace_steps[0] <= r.trace_steps[1]),
          "{}: run.trace_steps = [{}]: expected none or the first and the last step", r.path,
          fmt::join(r.trace_steps, ", "));
  require(r.learning_rate.floor <= r.learning_rate.peak,
          "{}: optimizer.min_lr = {} is more than optimizer.lr = {}", r.path, r.learning_rate.floor,
          r.learning_rate.peak);
}

// Are there parameters without gradients, moments and masters?
bool trains_a_part(const TrainRecipe& r) {
  const std::vector<std::string> all = {"*"};
  return !r.freeze.empty() || r.train != all || r.objective->trains() != all;
}

// Of the teacher's output matrix, on a rank of the student's last stage that holds rows of it.
double teacher_head_bytes(const TrainRecipe& r) {
  if (!r.has_teacher() || !(r.teacher_streams || r.cached) || !r.objective->needs_teacher_head()) return 0;
  return double(r.loss.shared_vocabulary) * double(r.teacher->hidden_size) *
         double(size_of(r.teacher_dtype)) / r.layout.tp;
}

// What a rank certainly needs on a CPU: its weights and, where they are trained, their gradients, and its
// part of moments and masters, in f32. A GPU's memory is asked for when its weights are made.
void check_memory(const TrainRecipe& r) {
  const double state = r.student_dtype == DType::f32 ? 8 : 12,
               trained = trains_a_part(r) ? 0 : 4 + state / (r.zero ? r.layout.dp : 1),
               bytes_each = double(size_of(r.student_dtype)) + trained,
               needed =
                   double(parameter_count(r.student)) * bytes_each / (double(r.layout.pp) * r.layout.tp) +
                   teacher_head_bytes(r),
               installed = double(sysconf(_SC_PHYS_PAGES)) * double(sysconf(_SC_PAGESIZE));
  constexpr double kGiB = 1024.0 * 1024 * 1024;
  require(r.device == "cuda" || installed <= 0 || needed <= installed,
          "{}: [student]: {:.4g} parameters need at least {:.4g} GiB on a rank of layout.pp = {}, layout.tp "
          "= {}; "
          "this machine has {:.4g} GiB",
          r.path, double(parameter_count(r.student)), needed / kGiB, r.layout.pp, r.layout.tp,
          installed / kGiB);
}

void check_output(const TrainRecipe& r) {
  fs::path at = fs::absolute(r.out);
  std::error_code error;
  while (!fs::exists(at, error) && at.has_relative_path()) at = at.parent_path();
  require(fs::is_directory(at, error), "{}: run.out = {}: expected a directory, found {}, which is none",
          r.path, toml_string(r.out), at.string());
  require(access(at.c_str(), W_OK | X_OK) == 0, "{}: run.out = {}: {} cannot be written to", r.path,
          toml_string(r.out), at.string());
}

// On-policy micro-batches are made on one stage, of whole layers, and scored by a teacher that runs.
void check_on_policy(const TrainRecipe& r, TrainRecipe::Use use) {
  if (r.on_policy.share == 0) return;
  const auto expect = [&](bool condition, const std::string& expected) {
    require(condition, "{}: on_policy.share = {}: expected {}", r.path, r.on_policy.share, expected);
  };
  expect(r.objective->mean_over() == MeanOver::tokens && r.objective->passes_hidden_state() &&
             !r.objective->teacher_signals().empty(),
         "0 for a loss.objective other than \"kl\", \"reverse_kl\" and \"jsd\"");
  expect(r.loss.ce_weight == 0, fmt::format("loss.ce_weight = 0, since labels are the student's own tokens, "
                                            "found {}",
                                            r.loss.ce_weight));
  expect(r.runs_teacher(), "a teacher that runs (teacher.mode), found one whose signals are read");
  expect(r.cache.empty(), "no teacher.cache, since its signals are of no use to later runs");
  expect(r.layout.pp == 1 && r.chunks == 1,
         fmt::format("layout.pp = 1 and one model chunk, found {} and {}", r.layout.pp, r.chunks));
  expect(!r.sequence_parallel, "layout.sequence_parallel = false");
  expect(use != TrainRecipe::Use::verify, "0 for wuneng verify, which compares micro-batches of data");
}

}  // namespace

void check_recipe(const TrainRecipe& r, TrainRecipe::Use use) {
  check_stages(r, "layout", r.layout, r.student.num_layers);
  require(int64_t{r.layout.pp} * r.chunks <= r.student.num_layers,
          "{}: layout.pp = {} with layout.chunks = {}: expected at most {} model chunks, the number of the "
          "model's layers",
          r.path, r.layout.pp, r.chunks, r.student.num_layers);
  if (r.teacher_layout) check_stages(r, "teacher.layout", *r.teacher_layout, r.teacher->num_layers);
  if (r.has_teacher() && r.precomputed.empty()) teacher_signals_of(r);
  if (!r.cache.empty()) check_cacheable(r);
  check_on_policy(r, use);
  check_sizes(r);
  if (use == TrainRecipe::Use::plan) return;
  check_memory(r);
  if (use == TrainRecipe::Use::verify) return;
  if (launcher::rank() > 0) return;  // not all nodes need to see the directories
  check_output(r);
  require(
      r.resume == "auto" || r.resume == "none" || has_checkpoint(r.resume),
      "{}: run.resume = {}: expected \"auto\", \"none\" or the directory of a checkpoint, found none there",
      r.path, toml_string(r.resume));
}

}  // namespace wuneng
