#include "launch/train/recipe.h"

#include <algorithm>
#include <filesystem>

#include "data/batches/pair_corpus.h"
#include "kernels/top_k.h"
#include "launch/train/checkpoint_weights.h"
#include "launch/train/context_length.h"
#include "launch/train/recipe_checks.h"
#include "launch/train/teacher_placement.h"
#include "launch/train/vocabulary_signal.h"
#include "model/families.h"
#include "model/layer_map.h"
#include "model/mixers/registry.h"
#include "parallel/schedule_times.h"

namespace wuneng {
namespace {

namespace fs = std::filesystem;

Layout read_layout(Recipe& r, const std::string& at) {
  Layout l;
  l.dp = static_cast<int>(r.integer(at + ".dp", 1, 1, 1 << 20));
  l.pp = static_cast<int>(r.integer(at + ".pp", 1, 1, 1 << 20));
  l.tp = static_cast<int>(r.integer(at + ".tp", 1, 1, 1 << 20));
  require(double(l.dp) * l.pp * l.tp <= 1 << 20, "{}: {}: dp {} x pp {} x tp {}: expected at most {} ranks",
          r.path(), at, l.dp, l.pp, l.tp, 1 << 20);
  return l;
}

DType read_dtype(Recipe& r, const std::string& key, const std::string& fallback) {
  return parse_dtype(r.text(key, fallback, {"f32", "bf16"}));
}

void read_shape(Recipe& r, ModelConfig& c) {
  // A start from a directory brings its shape; shape keys would be ignored, so finish() refuses them.
  for (const char* key : {"hidden_size", "intermediate_size", "layers", "heads", "vocab_size"})
    r.require_key(std::string("student.") + key);
  using M = ModelConfig;
  c.hidden_size = r.integer("student.hidden_size", 0, 1, M::kMaxHidden);
  c.intermediate_size = r.integer("student.intermediate_size", 0, 1, M::kMaxIntermediate);
  c.num_layers = r.integer("student.layers", 0, 1, M::kMaxLayers);
  c.num_heads = r.integer("student.heads", 0, 1, M::kMaxHeads);
  c.num_kv_heads = r.integer("student.kv_heads", c.num_heads, 1, M::kMaxHeads);
  require(r.has("student.head_dim") || c.hidden_size % c.num_heads == 0,
          "{}: student.hidden_size = {} is not a multiple of student.heads = {}: expected student.head_dim, "
          "found "
          "none",
          r.path(), c.hidden_size, c.num_heads);
  c.head_dim = r.integer("student.head_dim", c.hidden_size / c.num_heads, 1, M::kMaxHeadDim);
  c.vocab_size = r.integer("student.vocab_size", 0, 1, M::kMaxVocabulary);
  c.rope_theta = static_cast<float>(r.number("student.rope_theta", 1e6, 1, 1e12));
  c.rms_norm_eps = static_cast<float>(r.number("student.rms_norm_eps", 1e-6, 0, 1));
  c.tie_word_embeddings = r.boolean("student.tie_word_embeddings", true);
  c.set_family(r.text("student.family", c.family, family_names()));
}

OptionValue read_option(Recipe& r, const Option& o, const OptionValue& fallback) {
  const std::string key = "student." + o.name;
  switch (o.type) {
    case Option::Type::flag:
      return r.boolean(key, std::get<bool>(fallback));
    case Option::Type::integer:
      return r.integer(key, std::get<int64_t>(fallback), int64_t(o.least), int64_t(o.most));
    case Option::Type::number:
      return r.number(key, std::get<double>(fallback), o.least, o.most);
    case Option::Type::choice:
      return r.text(key, std::get<std::string>(fallback), o.allowed);
    case Option::Type::choices:
      return r.texts(key, std::get<std::vector<std::string>>(fallback), o.allowed);
  }
  fail("{}: unknown type of option", key);
}

// The mixers of a student whose shape is known, and their options. An option that several mixers have is set
// for all of them. A directory to start from brings the mixers and options that it has.
void read_mixers(Recipe& r, TrainRecipe& t) {
  ModelConfig& c = t.student;
  const bool plain = c.is_plain();  // then a WuNeng student is made of it
  std::vector<std::string> names = mixer_names();
  for (const std::string& name : mixer_names())
    if (const std::string former = mixer_type(name, r.path()).former_name; !former.empty())
      names.push_back(former);
  const std::string mixer = r.text("student.mixer", plain ? "wuneng" : c.mixer, names);
  const std::vector<std::string> entries = r.texts(
      "student.layer_mixers", plain ? std::vector<std::string>() : layer_mixers_to_text(c.layer_mixers));
  c.mixer = mixer_type(mixer, r.path()).name;
  c.layer_mixers = parse_layer_mixers(entries, c.num_layers, r.path() + ": student.layer_mixers");
  for (const std::string& name : mixer_names()) {
    const std::string& former = mixer_type(name, r.path()).former_name;
    if (!former.empty() && (mixer == former || std::any_of(entries.begin(), entries.end(), [&](auto& entry) {
                              return entry.ends_with(":" + former);
                            })))
      t.notes.push_back(
          fmt::format("{}: [student]: mixer \"{}\" is now called \"{}\"; the old name is still read",
                      r.path(), former, name));
  }
  std::vector<std::string> presets;
  for (const std::string& mixer : c.mixers())
    for (const Preset& preset : mixer_type(mixer, r.path()).presets) presets.push_back(preset.name);
  const std::string preset = presets.empty() ? "" : r.text("student.preset", presets[0], presets);
  for (const std::string& mixer : c.mixers()) {
    const MixerType& type = mixer_type(mixer, r.path());
    const OptionValues brought = c.options_of(mixer);
    const bool has_preset = std::any_of(type.presets.begin(), type.presets.end(),
                                        [&](const Preset& p) { return p.name == preset; });
    OptionValues values;
    for (const Option& option : type.options) {
      const auto it = brought.find(option.name);
      values[option.name] = read_option(
          r, option,
          it != brought.end() ? it->second
                              : default_option(type, has_preset ? preset : "", option, c, values));
    }
    c.options[mixer] = values;
  }
}

// A path that the recipe must set.
std::string read_path(Recipe& r, const std::string& key) {
  r.require_key(key);
  std::string path = r.text(key, "");
  require(!path.empty(), "{}: {}: expected a path, found an empty text", r.path(), key);
  return path;
}

// The configuration of a model to read, whose files are checked, and what there is to say of them. `path`
// becomes the directory of one checkpoint where it is a root of several.
ModelConfig read_model(std::string& path, TrainRecipe& t, TrainRecipe::Use use) {
  if (use == TrainRecipe::Use::plan && !has_checkpoint(path)) return ModelConfig::from_directory(path);
  const auto weights = open_weights(path);
  path = weights->where();
  for (const std::string& note : weights->notes()) t.notes.push_back(note);
  return weights->config();
}

std::optional<DType> read_stream_dtype(Recipe& r) {
  const std::map<std::string, std::optional<DType>> types = {
      {"exact", std::nullopt}, {"f32", DType::f32}, {"bf16", DType::bf16}, {"int8", DType::i8}};
  std::vector<std::string> names;
  for (const auto& [name, type] : types) names.push_back(name);
  return types.at(r.text("teacher.stream_dtype", "exact", names));
}

// What the teacher sends for a divergence over the vocabulary. Returns what there is to say of it.
std::string read_signal(Recipe& r, TrainRecipe& t) {
  const VocabularySignal signal =
      choose_vocabulary_signal(t, r.text("teacher.signal", "auto", {"auto", "logits", "hidden", "top_k"}));
  t.loss.teacher_signal = signal.name;
  t.loss.shared_vocabulary = std::min(t.teacher->vocab_size, t.student.vocab_size);
  if (signal.name == "top_k") {
    t.top_k = r.integer("teacher.top_k", 64, 1, kernels::kMostTopK);
    require(t.top_k < t.loss.shared_vocabulary,
            "{}: teacher.top_k = {}: expected fewer than the {} tokens that both vocabularies share",
            r.path(), t.top_k, t.loss.shared_vocabulary);
    require(!t.loss.bf16_logits, "{}: loss.bf16_logits: expected false for teacher.signal = \"top_k\"",
            r.path());
    require(!t.stream_dtype || *t.stream_dtype == DType::f32,
            "{}: teacher.stream_dtype = \"{}\": expected \"exact\" for teacher.signal = \"top_k\"", r.path(),
            r.text("teacher.stream_dtype", "exact"));
  }
  return describe_signal(t, signal);
}

void read_cache(Recipe& r, TrainRecipe& t, const std::string& mode) {
  t.cached = mode == "cached";
  if (t.cached) r.require_key("teacher.cache");
  t.cache = r.text("teacher.cache", "");
  require(!t.cached || !t.cache.empty(), "{}: teacher.mode = \"cached\": expected teacher.cache, a directory",
          r.path());
  require(t.cache.empty() || mode != "precomputed",
          "{}: teacher.cache: expected none with teacher.mode = \"precomputed\", found \"{}\"", r.path(),
          t.cache);
  if (!t.cache.empty()) t.cache_gb = r.number("teacher.cache_gb", 100, 1e-6, 1e9);
}

void read_teacher(Recipe& r, TrainRecipe& t, ObjectiveMaker make_objective, TrainRecipe::Use use) {
  t.teacher_path = read_path(r, "teacher.path");
  t.teacher = read_model(t.teacher_path, t, use);
  t.teacher_dtype = read_dtype(r, "teacher.dtype", "f32");
  std::string mode =
      r.text("teacher.mode", "auto", {"auto", "stream", "colocated", "in_process", "precomputed", "cached"});
  if (mode == "in_process") {
    t.notes.push_back(r.path() +
                      ": teacher.mode: \"in_process\" is now called \"colocated\"; the old name is "
                      "still read");
    mode = "colocated";
  }
  t.stream_dtype = read_stream_dtype(r);
  t.credits = static_cast<int>(r.integer("teacher.credits", 2, 1, 1024));
  const Layout layout = read_layout(r, "teacher.layout");
  if (mode == "precomputed") {
    require(t.objective->teacher_signals() == std::vector<std::string>{"label_logprob"},
            "{}: teacher.mode = \"precomputed\": expected loss.objective = \"dpo\", whose signal is one "
            "number a token, found an objective with the signals {}",
            r.path(), fmt::join(t.objective->teacher_signals(), ", "));
    t.precomputed = read_path(r, "teacher.precomputed");
    t.precompute_layout = layout;
  }
  read_cache(r, t, mode);
  t.teacher_streams = teacher_streams(mode, t.layout, layout);
  if (t.teacher_streams) t.teacher_layout = layout;
  t.layer_map = r.integers("teacher.layer_map", spread_layers(t.student.num_layers, t.teacher->num_layers), 0,
                           ModelConfig::kMaxLayers);
  check_layer_map(t.layer_map, t.student.num_layers, t.teacher->num_layers, r.path() + ": teacher.layer_map");
  std::string of_signal;
  if (t.objective->teacher_signals() == std::vector<std::string>{"logits"}) {
    of_signal = read_signal(r, t);
    t.objective = make_objective(t.loss);
  }
  t.notes.push_back(describe_teacher(t, mode == "auto"));
  if (!of_signal.empty()) t.notes.push_back(of_signal);
}

// What the paths are, where the recipe does not say: token files are known by an index.
DataSource::Kind kind_of(const std::string& path) {
  const auto is_index = [](const fs::path& p) { return p.extension() == ".idx"; };
  bool tokens = is_index(path) || path.ends_with(".bin") || fs::is_regular_file(path + ".idx");
  if (std::error_code none; fs::is_directory(path, none))
    for (const auto& entry : fs::recursive_directory_iterator(path))
      tokens = tokens || is_index(entry.path());
  return tokens ? DataSource::Kind::tokens : DataSource::Kind::bytes;
}

const char* to_string(DataSource::Kind kind) {
  return kind == DataSource::Kind::bytes    ? "text"
         : kind == DataSource::Kind::tokens ? "token files"
                                            : "preference pairs";
}

// pairs: the objective trains on preference pairs.
DataSource read_source(Recipe& r, const std::string& key, bool pairs) {
  DataSource s;
  s.key = key;
  r.require_key(key + ".paths");
  s.paths = r.texts(key + ".paths", {});
  require(!s.paths.empty(), "{}: {}.paths: expected at least one path, found none", r.path(), key);
  s.extensions = r.texts(key + ".extensions", {});
  const std::string kind = r.text(key + ".kind", "auto", {"auto", "bytes", "tokens", "pairs"});
  if (kind != "auto" || pairs) {
    s.kind = kind == "tokens"  ? DataSource::Kind::tokens
             : kind == "bytes" ? DataSource::Kind::bytes
                               : DataSource::Kind::pairs;
    require((s.kind == DataSource::Kind::pairs) == pairs,
            "{}: {}.kind = \"{}\": expected {} for this loss.objective", r.path(), key, kind,
            pairs ? "preference pairs" : "text or token files");
    return s;
  }
  for (const std::string& path : s.paths)
    require(!is_pair_prefix(path) || fs::is_regular_file(path + ".idx"),
            "{}: {}.paths: expected text or token files, found preference pairs, {}_chosen and "
            "{}_rejected, which are for loss.objective = \"dpo\"",
            r.path(), key, path, path);
  s.kind = kind_of(s.paths[0]);
  // Extensions pick out text: token files have none but their own.
  if (!s.extensions.empty()) s.kind = DataSource::Kind::bytes;
  for (const std::string& path : s.paths)
    require(s.extensions.empty() ? kind_of(path) == s.kind : true,
            "{}: {}.paths: expected all text or all token files, found {} ({}) and {} (say which with "
            "kind = \"bytes\" or \"tokens\")",
            r.path(), key, path, to_string(kind_of(path)), s.paths[0]);
  return s;
}

void read_data(Recipe& r, TrainRecipe& t) {
  const bool pairs = t.objective->mean_over() == MeanOver::pairs;
  if (const int64_t count = r.tables("data.sources")) {
    require(!r.has("data.paths"), "{}: expected data.paths or data.sources, found both", r.path());
    for (int64_t i = 0; i < count; ++i) {
      const std::string key = fmt::format("data.sources[{}]", i);
      t.sources.push_back(read_source(r, key, pairs));
      t.sources.back().weight = r.number(key + ".weight", 1, 1e-9, 1e9);
      require(
          t.sources[i].kind == t.sources[0].kind,
          "{}: {}: expected {} as in data.sources[0], found {}: bytes and a tokenizer's tokens do not mix "
          "(wuneng tokenize --tokenizer bytes makes token files of bytes)",
          r.path(), key, to_string(t.sources[0].kind), to_string(t.sources[i].kind));
    }
  } else {
    t.sources.push_back(read_source(r, "data", pairs));
  }
  t.held_out_every = r.integer("data.held_out_every", 20, 0);
  if (pairs) {
    t.packing = PackingRule::pairs;
    t.drop_long_pairs = r.text("data.long_pairs", "error", {"error", "drop"}) == "drop";
  } else {
    t.packing = r.text("data.packing", "windows", {"windows", "best_fit"}) == "best_fit"
                    ? PackingRule::best_fit
                    : PackingRule::windows;
  }
  t.seq_len = r.integer("data.seq_len", 256, 1, 1 << 24);
  t.micro_batch = r.integer("data.micro_batch", 4, 1, 1 << 20);
  t.data_seed = static_cast<uint64_t>(r.integer("data.seed", 0, 0));
  t.data_threads = static_cast<int>(r.integer("data.threads", 1, 1, 256));
}

void read_schedule(Recipe& r, TrainRecipe& t) {
  std::vector<std::string> names = schedule_names();
  names.push_back("auto");
  const std::string name = r.text("layout.schedule", "1f1b", names);
  const int micro_batches = static_cast<int>(t.accumulation);
  // Forward, and the halves of the backward, are about equal.
  const ActionTimes times{.backward_input = 1 + repeated_forwards(t.recompute)};
  const bool passes = t.objective->passes_hidden_state();
  const ChosenSchedule chosen =
      name == "auto" ? choose_schedule(passes ? t.layout.pp : 1, micro_batches, t.student.num_layers, times)
                     : ChosenSchedule{&schedule_named(name), 0, 0};
  t.schedule = chosen.schedule;
  t.chunks = static_cast<int>(r.integer("layout.chunks", t.schedule->default_chunks(), 1, 1 << 10));
  require(t.schedule->takes(t.chunks), "{}: layout.chunks = {}: layout.schedule = \"{}\" has {}", r.path(),
          t.chunks, t.schedule->name, t.schedule->chunks);
  require(passes || t.chunks == 1,
          "{}: layout.schedule = \"{}\": expected one model chunk a stage for an objective whose stages pass "
          "nothing on, so that none waits, found layout.chunks = {}",
          r.path(), t.schedule->name, t.chunks);
  if (t.layout.pp == 1 || !passes) return;
  const auto idle = [&](const PipelineSchedule& schedule, int chunks) {
    return 100 *
           simulate(schedule, {t.layout.pp, chunks, schedule.placement}, micro_batches, times).idle_share();
  };
  t.notes.push_back(
      fmt::format("pipeline: {}{}{}: by simulation of equal layers its stages wait for {:.1f}% of a step{}",
                  t.schedule->name, t.chunks > 1 ? fmt::format(", {} model chunks a stage", t.chunks) : "",
                  name == "auto" ? " (layout.schedule = \"auto\")" : "", idle(*t.schedule, t.chunks),
                  t.schedule == &one_f_one_b ? "" : fmt::format(" (1f1b: {:.1f}%)", idle(one_f_one_b, 1))));
}

void read_on_policy(Recipe& r, TrainRecipe& t) {
  OnPolicyOptions& o = t.on_policy;
  o.share = r.number("on_policy.share", 0, 0, 1);
  if (o.share == 0) return;
  o.prompt_tokens =
      r.integer("on_policy.prompt_tokens", std::clamp<int64_t>(t.seq_len / 2, 1, 32), 1, t.seq_len);
  o.temperature = r.number("on_policy.temperature", 1, 0, 100);
  o.sequences = r.integer("on_policy.sequences", 32, 1, 1 << 16);
}

}  // namespace

TrainRecipe TrainRecipe::load(const std::string& path, const std::vector<std::string>& overrides, Use use) {
  Recipe r(path, overrides);
  TrainRecipe t;
  t.path = path;
  t.layout = read_layout(r, "layout");
  t.recompute =
      recompute_named(r.text_or_boolean("run.recompute", "none", recompute_names(), "none", "layer"));
  t.activations = r.text("run.activations", "auto", {"auto", "f32", "bf16"});
  t.device = r.text("run.device", "auto", {"auto", "cpu", "cuda"});

  t.init_from = r.text("student.init_from", "");
  if (t.init_from.empty())
    read_shape(r, t.student);
  else
    t.student = read_model(t.init_from, t, use);
  read_mixers(r, t);
  t.student.check(path + " [student]");
  t.random_mixers = r.text("student.init", "preserving", {"preserving", "mixer_random"}) == "mixer_random";
  require(!t.random_mixers || !t.init_from.empty(),
          "{}: student.init = \"mixer_random\": expected student.init_from, found none", path);
  t.student_dtype = read_dtype(r, "student.dtype", "f32");
  t.train = r.texts("student.train", {"*"});
  t.freeze = r.texts("student.freeze", {});

  std::vector<std::string> objectives;
  for (const auto& [name, make] : objective_registry()) objectives.push_back(name);
  const std::string objective = r.text("loss.objective", "kl", objectives);
  LossOptions& loss = t.loss;
  if (objective == "dpo") {
    loss.beta = r.number("loss.beta", 0.1, 1e-6, 1e6);
    loss.label_smoothing = r.number("loss.label_smoothing", 0, 0, 0.5);
    loss.length_normalised = r.boolean("loss.length_normalised", false);
    loss.chunk_tokens = r.integer("loss.chunk_tokens", 0, 0);
  } else if (objective != "align") {
    loss.temperature = static_cast<float>(r.number("loss.temperature", 1, 1e-3, 1e3));
    r.renamed("loss.ce_share", "loss.ce_weight");
    if (objective != "ce") loss.ce_weight = static_cast<float>(r.number("loss.ce_weight", 0, 0, 0.999));
    if (objective == "jsd") loss.beta = r.number("loss.beta", 0.5, 0, 1);
    loss.chunk_tokens = r.integer("loss.chunk_tokens", 0, 0);
    loss.bf16_logits = r.boolean("loss.bf16_logits", false);
  }
  loss.student_layers = t.student.num_layers;
  const ObjectiveMaker make_objective = objective_registry().at(objective);
  t.objective = make_objective(loss);
  t.accumulation = r.integer("data.accumulation", 1, 1, 1 << 20);
  read_schedule(r, t);
  t.sequence_parallel = r.boolean("layout.sequence_parallel", false);
  require(!t.sequence_parallel || t.objective->passes_hidden_state(),
          "{}: layout.sequence_parallel: expected an objective with a hidden state between layers, found "
          "loss.objective = \"{}\", whose layers have inputs of their own",
          path, objective);
  if (!t.objective->teacher_signals().empty()) read_teacher(r, t, make_objective, use);

  // A new student has its teacher's tokens.
  if (t.init_from.empty() && t.teacher)
    for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"})
      if (const auto it = t.teacher->carried.find(key); it != t.teacher->carried.end())
        t.student.carried.insert(*it);
  const std::string& tokenizer_path = t.init_from.empty() ? t.teacher_path : t.init_from;
  if (!tokenizer_path.empty()) t.tokenizer_from = tokenizer_of(tokenizer_path);

  read_data(r, t);
  read_context_length(r, t);
  read_on_policy(r, t);

  t.learning_rate.peak = r.number("optimizer.lr", 3e-4, 0, 10);
  t.learning_rate.floor = r.number("optimizer.min_lr", 0, 0, 10);
  t.learning_rate.warmup = r.integer("optimizer.warmup", 0, 0);
  t.learning_rate.steps = r.integer("optimizer.steps", 100, 1, 10'000'000);
  t.adamw.beta1 = static_cast<float>(r.number("optimizer.beta1", 0.9, 0, 0.9999999));
  t.adamw.beta2 = static_cast<float>(r.number("optimizer.beta2", 0.95, 0, 0.9999999));
  t.adamw.eps = static_cast<float>(r.number("optimizer.eps", 1e-8, 1e-30, 1));
  t.adamw.weight_decay = static_cast<float>(r.number("optimizer.weight_decay", 0.1, 0, 10));
  t.clip = r.number("optimizer.clip", 1, 0, 1e30);
  t.zero = static_cast<int>(r.integer("optimizer.zero", 1, 0, 1));

  t.out = read_path(r, "run.out");
  t.resume = r.text("run.resume", "auto");
  require(t.device != "cpu" || t.activations != "bf16",
          "{}: run.activations = \"bf16\" with run.device = \"cpu\": the CPU computes in f32", path);
  require(!loss.bf16_logits ||
              (t.device != "cpu" && t.activations_on({DeviceKind::cuda}, t.student_dtype) == DType::bf16),
          "{}: loss.bf16_logits: expected a GPU and activations in bf16, found run.device = \"{}\", "
          "run.activations = \"{}\", student.dtype = \"{}\"",
          path, t.device, t.activations, to_string(t.student_dtype));
  t.seed = static_cast<uint64_t>(r.integer("run.seed", 0, 0));
  t.checkpoint_every = r.integer("run.checkpoint_every", 0, 0);
  t.keep = r.integer("run.keep", 3, 0);
  t.async_checkpoints = r.boolean("run.async_checkpoints", true);
  t.on_nan = r.text("run.on_nan", "stop", {"stop", "skip"});
  t.max_skipped = r.integer("run.max_skipped", 10, 1);
  t.check_replicas_every = r.integer("run.check_replicas_every", 100, 0);
  t.eval_every = r.integer("run.eval_every", 0, 0);
  t.eval_batches = r.integer("run.eval_batches", 8, 0, 1 << 20);
  t.log_every = r.integer("run.log_every", 10, 1);
  t.trace_steps = r.integers("run.trace_steps", {}, 1, INT64_MAX);
  t.overlap = r.boolean("run.overlap", true);
  t.time_products = r.boolean("run.time_products", false);
  t.cuda_graphs = r.boolean("run.cuda_graphs", false);
  t.gpu_memory = r.number("run.gpu_memory", 0.9, 0.01, 0.99);
  t.hang_timeout = r.number("run.hang_timeout", 600, 0, 1e9);
  r.finish();
  check_recipe(t, use);
  t.resolved = r.resolved();
  t.notes.insert(t.notes.begin(), r.notes().begin(), r.notes().end());
  return t;
}

std::vector<std::string> replace_settings(std::vector<std::string> overrides,
                                          const std::vector<std::string>& settings) {
  const auto key = [](const std::string& setting) { return setting.substr(0, setting.find('=')); };
  std::erase_if(overrides, [&](const std::string& given) {
    return std::any_of(settings.begin(), settings.end(),
                       [&](const std::string& s) { return key(s) == key(given); });
  });
  overrides.insert(overrides.end(), settings.begin(), settings.end());
  return overrides;
}

}  // namespace wuneng
