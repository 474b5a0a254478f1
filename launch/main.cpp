// main(): the command line. Errors are printed with the rank's name and end all ranks.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <functional>
#include <optional>

#include "data/text/chat_template.h"
#include "launch/commands/commands.h"
#include "launch/commands/generation_model.h"
#include "launch/plan/gpu.h"
#include "launch/train/logprob_file.h"
#include "launch/train/precompute.h"
#include "launch/train/signal_cache.h"
#include "launch/train/train.h"
#include "launch/verify/verify.h"
#include "runtime/collective_error.h"
#include "runtime/launcher.h"
#include "runtime/signals.h"
#include "runtime/spelling.h"

namespace {

constexpr int kFailed = 1;

// What an error names, such as a path, may have line feeds.
std::string one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

// Thrown after check_on_all_ranks() has printed an error.
struct ErrorReported {};

// Runs `check` on all ranks before any work starts; if it fails on any, the first of them prints its error
// and all throw ErrorReported.
template <class F>
void check_on_all_ranks(const F& check) {
  std::string problem;
  try {
    check();
  } catch (const std::exception& e) {
    problem = e.what();
  }
  const wuneng::Comm world = wuneng::Comm::world();
  const auto all = world.all_gather_text(problem, "start");
  for (int r = 0; r < world.size(); ++r) {
    if (all[r].empty()) continue;
    if (r == world.rank()) std::fprintf(stderr, "wuneng: error: %s\n", one_line(all[r]).c_str());
    throw ErrorReported{};
  }
}

// Of an option that is a whole number. CLI11 reads one beyond 64 bits as the largest within.
CLI::Range at_least(int64_t least) { return {least, INT64_MAX - 1, "whole number"}; }

// CLI11's errors on one line.
std::string usage_error(const CLI::App*, const CLI::Error& e) {
  std::string text = e.what();
  std::replace(text.begin(), text.end(), '\n', ' ');
  return fmt::format("wuneng: error: {} (wuneng --help and wuneng COMMAND --help list what is known)\n",
                     text);
}

// Throws where the command line begins with a word that is no command.
void require_command(const CLI::App& app, int argc, char** argv) {
  std::vector<std::string> known;
  for (const CLI::App* command : app.get_subcommands({})) known.push_back(command->get_name());
  if (argc < 2 || argv[1][0] == '-' || std::count(known.begin(), known.end(), argv[1])) return;
  const std::string nearest = wuneng::nearest_word(argv[1], known);
  throw CLI::ExtrasError(
      fmt::format("unknown command {}: {}", argv[1],
                  nearest.empty() ? fmt::format("expected one of {}", fmt::join(known, ", "))
                                  : "did you mean " + nearest + "?"),
      CLI::ExitCodes::ExtrasError);
}

// The hang timeout and the heartbeat's directory are those of the recipe, where it can be read; what is wrong
// with it is said when all ranks are there.
void start_training(std::optional<wuneng::Runtime>& runtime, int argc, char** argv,
                    const std::optional<wuneng::TrainRecipe>& recipe) {
  using namespace wuneng;
  if (recipe) Runtime::set_hang_timeout(recipe->hang_timeout);
  runtime.emplace(&argc, &argv, recipe ? recipe->out : "", !recipe || recipe->sends_messages());
}

// `train`, `precompute`, `verify` and, over several ranks, `generate` and `serve` start MPI, which makes
// `runtime` of several ranks.
int run(int argc, char** argv, std::optional<wuneng::Runtime>& runtime) {
  using namespace wuneng;
  int exit_code = 0;
  CLI::App app{
      "wuneng turns a teacher into a WuNeng student: attention heads joined by RWKV-7 state heads.\n"
      "Start it once per rank: mpirun -n RANKS wuneng train RECIPE. The recipes in launch/recipes document "
      "every setting."};
  app.require_subcommand(1);
  app.failure_message(usage_error);
  std::function<void()> command;
  app.set_version_flag("--version", "wuneng 0.1.0");

  std::string recipe;
  std::vector<std::string> overrides;
  CLI::App* train_command = app.add_subcommand("train",
                                               "Train or distil a model as configured by a recipe. Under "
                                               "mpirun, one process per rank; the number of ranks is\n"
                                               "student dp x pp x tp plus teacher dp x pp x tp.");
  train_command
      ->add_option("recipe", recipe,
                   "a TOML file, such as launch/recipes/quickstart_student.toml; every_key.toml there "
                   "has all settings")
      ->required();
  train_command->add_option("overrides", overrides,
                            "settings that replace the recipe's, such as optimizer.lr=1e-4 layout.tp=2");
  const auto run_train = [&](bool trains) {
    std::optional<TrainRecipe> loaded;
    std::optional<TrainingData> data;
    std::exception_ptr problem;
    if (trains) signals::catch_stops(launcher::rank() <= 0);
    try {
      loaded = TrainRecipe::load(recipe, overrides);
    } catch (const std::exception&) {
      problem = std::current_exception();
    }
    start_training(runtime, argc, argv, loaded);
    check_on_all_ranks([&] {
      if (problem) std::rethrow_exception(problem);
      if (trains)
        Mesh::check(Comm::world().size(), loaded->layout, loaded->teacher_layout);
      else
        check_precompute(*loaded, Comm::world().size());
      data.emplace(*loaded, CheckShare{Comm::world().rank(), Comm::world().size()});
      parse_device(loaded->device, Runtime::local_rank());
      if (trains && !loaded->precomputed.empty()) open_logprobs(*loaded, *data, Comm::world().rank() == 0);
      if (trains && !loaded->cache.empty() && Comm::world().rank() == 0) prepare_cache(*loaded, *data);
    });
    if (!trains)
      precompute(*loaded, *data);
    else if (train(*loaded, *data))
      exit_code = signals::kStopped;
  };
  train_command->callback([&] { command = [&] { run_train(true); }; });
  CLI::App* precompute_command = app.add_subcommand(
      "precompute",
      "Write the reference's log-probabilities for a recipe with teacher.mode = \"precomputed\" to the file\n"
      "teacher.precomputed: then `train` needs no ranks for it. One process per rank of teacher.layout.");
  precompute_command->add_option("recipe", recipe, "the recipe of the training run")->required();
  precompute_command->add_option("overrides", overrides, "settings that replace the recipe's");
  precompute_command->callback([&] { command = [&] { run_train(false); }; });

  CLI::App* plan_command = app.add_subcommand("plan",
                                              "Print what each rank of a recipe's run would hold in memory "
                                              "and compute in a step, by a dry run of its\n"
                                              "own code. Needs no GPU, no data and of the models only "
                                              "config.json. Sequences count as whole documents;\n"
                                              "run.device says for which device, a GPU if it is \"auto\".");
  PlanCommand p;
  plan_command->add_option("recipe", p.recipe, "the recipe of the training run")->required();
  plan_command->add_option("overrides", p.overrides, "settings that replace the recipe's");
  plan_command
      ->add_option(
          "--gpus", p.gpus,
          "print the ten fastest layouts of student and teacher on so many GPUs that fit, by estimate")
      ->check(CLI::Range(1, 1 << 16));
  plan_command->add_option("--gpu", p.gpu, "their kind")->check(CLI::IsMember(gpu_names()));
  plan_command->callback([&] { command = [&] { plan(p); }; });

  CLI::App* verify_command = app.add_subcommand(
      "verify",
      "Compare a step of a recipe (forward, backward, gradients of parameters) on one rank with the same "
      "step\n"
      "under the layouts that the started ranks have room for, the recipe's own among them, and where there "
      "is\n"
      "a GPU with one rank on the CPU: mpirun -n 4 wuneng verify RECIPE. Names the first tensor, in the "
      "order\n"
      "of computation, that differs by more than 64 times what it moves where each tensor between layers is\n"
      "moved by one unit in the last place (docs/verify.md). Exit code 1 where one does. Writes nothing.");
  int64_t micro_batches = 0;
  verify_command->add_option("recipe", recipe, "the recipe of the training run")->required();
  verify_command->add_option("overrides", overrides, "settings that replace the recipe's");
  verify_command
      ->add_option("--micro-batches", micro_batches,
                   "of the step, over all replicas; default: what all degrees dp divide, at least 2")
      ->check(at_least(1));
  verify_command->callback([&] {
    command = [&] {
      std::optional<VerifiedLayouts> layouts;
      std::exception_ptr problem;
      try {
        layouts = verified_layouts(
            recipe, overrides, launcher::started_this() ? std::max(1, launcher::ranks()) : 1, micro_batches);
        Runtime::set_hang_timeout(layouts->reference.hang_timeout);
      } catch (const std::exception&) {
        problem = std::current_exception();
      }
      runtime.emplace(&argc, &argv);
      check_on_all_ranks([&] {
        if (problem) std::rethrow_exception(problem);
        parse_device(layouts->reference.device, Runtime::local_rank());
      });
      if (!verify(*layouts, Comm::world())) exit_code = kFailed;
    };
  });

  TokenizeCommand t;
  CLI::App* tokenize_command = app.add_subcommand(
      "tokenize",
      "Make token files (OUT.bin and OUT.idx, Megatron's format) from text and JSON lines, plain, .gz, "
      ".bz2, .xz or .zst.\n"
      "A line of JSON is {\"text\"}, {\"messages\"}, {\"conversations\"} (ShareGPT), {\"instruction\", "
      "\"output\"}\n"
      "(LLaMA-Factory), {\"prompt\", \"completion\"} or {\"prompt\", \"chosen\", \"rejected\"}. Chats are "
      "rendered with\n"
      "the model's chat template. The loss mask of chats and completions (1: the token has a loss) is "
      "written "
      "to\n"
      "OUT_mask.bin and .idx; preference pairs are written to OUT_chosen and OUT_rejected, with equal "
      "indices.\n"
      "Examples:\n"
      "  wuneng tokenize books/ code.jsonl.zst --tokenizer models/Qwen2.5-7B --out data/pretrain\n"
      "  wuneng tokenize chats.jsonl --tokenizer models/Qwen2.5-7B-Instruct --out data/sft --bad-lines skip\n"
      "In a recipe: data.paths = [\"data/pretrain\"].");
  tokenize_command->add_option("paths", t.paths, "files, directories (recursive) or globs")->required();
  tokenize_command->add_option("--out", t.out, "path of the output files without .bin and .idx")->required();
  tokenize_command
      ->add_option(
          "--tokenizer", t.tokenizer,
          "a model's directory with tokenizer.json, or vocab.json and merges.txt; bytes: one token per byte")
      ->required();
  tokenize_command->add_option("--extensions", t.extensions,
                               "extensions of the files to read from directories and globs, such as .txt "
                               ".jsonl.gz; default: all files");
  const auto template_options = [](CLI::App* command, std::string& name, ChatOptions& options,
                                   const char* otherwise) {
    command
        ->add_option("--chat-template", name,
                     fmt::format("name of the chat template; default: {}", otherwise))
        ->check(CLI::IsMember(ChatTemplate::names()));
    command->add_option("--enable-thinking", options.enable_thinking,
                        "true or false, for a chat template that has it (Qwen3)");
    command->add_option("--date-string", options.date_string,
                        "today, such as \"26 Jul 2024\", for a chat template that has it (Llama 3)");
  };
  template_options(tokenize_command, t.chat_template, t.chat_options, "the one in the tokenizer's directory");
  tokenize_command
      ->add_option("--kind", t.kind,
                   "text: all tokens have a loss; supervised: answers have a loss; preference: pairs; auto: "
                   "that of the first record, and of all others")
      ->check(CLI::IsMember({"auto", "text", "supervised", "preference"}));
  tokenize_command
      ->add_option(
          "--format", t.format,
          "text or jsonl (JSON lines); auto: jsonl for .jsonl, .ndjson, .jsonlines and .json, else text")
      ->check(CLI::IsMember({"auto", "text", "jsonl"}));
  tokenize_command->add_option("--encoding", t.encoding,
                               "encoding of files without a byte order mark, such as utf-16le, latin1 or "
                               "gb18030; default: utf-8");
  tokenize_command->add_option("--ignore", t.ignored,
                               "members of JSON records and messages to take the data without, such as "
                               "reasoning_content");
  tokenize_command->add_option(
      "--separator", t.separator,
      "separator of the documents in a text file (\\n: a line feed); default: a file is "
      "one document");
  tokenize_command->add_option("--end", t.end,
                               "the token after each document that is not a chat; auto: the tokenizer's "
                               "<|endoftext|>, <|end_of_text|> or eos_token; none: no token");
  tokenize_command
      ->add_option("--bad-lines", t.bad_lines,
                   "stop: the first bad line ends the run; skip: skip and count them, print the first ten")
      ->check(CLI::IsMember({"stop", "skip"}));
  tokenize_command
      ->add_option("--longest-bytes", t.longest_bytes,
                   "maximum size of a line or document; a longer one is a bad line")
      ->check(CLI::PositiveNumber);
  tokenize_command->callback([&] { command = [&] { tokenize(t); }; });

  ConvertOptions c;
  CLI::App* convert_command = app.add_subcommand("convert",
                                                 "Convert a checkpoint to a Hugging Face directory, or a "
                                                 "teacher's directory to a student (--preset).");
  convert_command->add_option("from", c.from, "a checkpoint or a Hugging Face directory")->required();
  convert_command->add_option("to", c.to, "the directory to write")->required();
  convert_command->add_option(
      "--preset", c.preset,
      "full, lean or literal: add the parameters of WuNeng; the function of the model does not change");
  convert_command->add_option("--dtype", c.dtype, "f32 or bf16")->check(CLI::IsMember({"f32", "bf16"}));
  convert_command->add_option("--seed", c.seed, "seed of the random initialisation")->check(at_least(0));
  convert_command->add_option(
      "--tokenizer", c.tokenizer,
      "directory to copy the tokenizer's files from; default: that of the model, or of "
      "the checkpoint's teacher");
  convert_command->add_option("--max-file-bytes", c.max_file_bytes, "maximum size of a safetensors file")
      ->check(at_least(1));
  convert_command->callback([&] { command = [&] { convert(c); }; });

  LogitsOptions l;
  CLI::App* logits_command =
      app.add_subcommand("logits", "Write a model's logits for given tokens to an HDF5 file.");
  logits_command->add_option("model", l.model, "a Hugging Face directory or a checkpoint")->required();
  logits_command
      ->add_option("--tokens", l.tokens,
                   "token ids in a text file, or JSON {\"tokens\": [..], \"documents\": [0, .., count]}")
      ->required();
  logits_command->add_option("--out", l.out, "the HDF5 file to write")->required();
  const auto device_option = [](CLI::App* command, std::string& device) {
    command->add_option("--device", device, "cpu, cuda, or auto: a GPU if there is one")
        ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  };
  device_option(logits_command, l.device);
  logits_command->callback([&] { command = [&] { logits(l); }; });

  // Over the ranks of mpirun; a program of one rank needs no MPI.
  std::string generation_device = "auto";
  const auto run_generation = [&](const auto& prepare, const auto& options) {
    if (launcher::ranks() > 1) runtime.emplace(&argc, &argv, "", false);
    const Comm tp = Comm::world();
    Device device;
    check_on_all_ranks([&] { device = parse_device(generation_device, Runtime::local_rank()); });
    if (tp.size() > 1) {
      reserve_gpu_memory(tp, device, TrainRecipe::kGpuMemory);
      tp.connect(device);
    }
    std::function<void()> work;
    check_on_all_ranks([&] { work = prepare(options, device, tp); });
    work();
  };
  GenerateOptions g;
  CLI::App* generate_command =
      app.add_subcommand("generate",
                         "Generate text after a prompt, or an answer to it (--chat).\n"
                         "Under mpirun the ranks share the model by tensor parallelism:\n"
                         "  mpirun -n 2 wuneng generate MODEL --prompt TEXT");
  generate_command->add_option("model", g.model, "a Hugging Face directory or a checkpoint")->required();
  generate_command->add_option("--prompt", g.prompt, "text to continue");
  generate_command->add_option("--prompts", g.prompts,
                               "a file with a prompt a line; prints a line of JSON for each");
  generate_command->add_option("--tokenizer", g.tokenizer,
                               "a model's directory, or bytes; default: the model's own tokenizer");
  template_options(generate_command, g.chat_template, g.chat_options, "the model's own");
  generate_command->add_flag("--chat", g.chat, "render the prompt as a user message with the chat template");
  generate_command->add_option("--tokens", g.tokens, "maximum number of tokens to generate")
      ->check(at_least(0));
  generate_command->add_option("--stop", g.stops, "text that ends the result; may be given several times")
      ->allow_extra_args(false);
  generate_command->add_option("--temperature", g.sampling.temperature, "0: greedy decoding");
  generate_command->add_option("--top-k", g.sampling.top_k, "of the k most probable tokens; 0: of all");
  generate_command->add_option("--top-p", g.sampling.top_p,
                               "of the most probable tokens whose probabilities sum to this");
  generate_command->add_option("--min-p", g.sampling.min_p,
                               "of tokens with at least this share of the most probable one's probability");
  generate_command->add_option("--repetition-penalty", g.sampling.repetition_penalty,
                               "divides positive and multiplies negative logits of tokens that have been");
  generate_command->add_option("--seed", g.sampling.seed, "seed of sampling")->check(at_least(0));
  generate_command->add_option("--max-sequences", g.max_sequences, "prompts that run at the same time")
      ->check(at_least(1));
  generate_command->add_option("--weights", g.weights, "what the weights are held in")
      ->check(CLI::IsMember(generation_weights()));
  device_option(generate_command, generation_device);
  generate_command->callback([&] { command = [&] { run_generation(prepare_generate, g); }; });

  ServeOptions s;
  CLI::App* serve_command = app.add_subcommand(
      "serve",
      "Answer requests over HTTP in OpenAI's forms: /v1/completions, /v1/chat/completions (both also as\n"
      "server-sent events), /v1/models, /tokenize, /detokenize, /tokenizer_info, /health, /metrics\n"
      "(Prometheus). Requests run at the same time. Under mpirun the ranks share the model by tensor\n"
      "parallelism. SIGTERM or Ctrl-C: those under way are answered first.\n"
      "Example:\n"
      "  wuneng serve out/quickstart/student/model --port 8000\n"
      "  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\\n"
      "    -d '{\"prompt\": \"The \", \"max_tokens\": 20}'\n"
      "For other machines, with a token that clients show as their API key:\n"
      "  (umask 077; head -c 24 /dev/urandom | base64 > token)\n"
      "  wuneng serve MODEL --host 0.0.0.0 --token-file token\n"
      "docs/serving.md has more, for curl, OpenAI's client and lm-evaluation-harness.");
  serve_command->add_option("model", s.model, "a Hugging Face directory or a checkpoint")->required();
  serve_command->add_option("--name", s.name,
                            "what requests call the model; default: the last part of its path");
  serve_command->add_option("--host", s.host,
                            "address to listen at; one that other machines reach needs a token");
  serve_command->add_option("--port", s.port, "0: any that is free; the first line of output names it")
      ->check(CLI::Range(0, 65535));
  serve_command->add_option("--token-file", s.token_file,
                            "a file of mode 0600 with the token that requests must show "
                            "(Authorization: Bearer TOKEN)");
  serve_command->add_option("--tokenizer", s.tokenizer,
                            "a model's directory, or bytes; default: the model's own tokenizer");
  template_options(serve_command, s.chat_template, s.chat_options, "the model's own");
  serve_command
      ->add_option("--context-length", s.context_length,
                   "the most tokens of a sequence, prompt included; default: max_position_embeddings, at "
                   "most 4096")
      ->check(at_least(1));
  serve_command->add_option("--max-sequences", s.max_sequences, "sequences that run at the same time")
      ->check(at_least(1));
  serve_command->add_option("--max-queue", s.max_queue, "sequences that wait; beyond them: status 429")
      ->check(at_least(0));
  serve_command->add_option("--max-body-bytes", s.max_body_bytes, "of a request; beyond it: status 413")
      ->check(at_least(1));
  serve_command->add_option("--max-connections", s.max_connections, "beyond them: status 503")
      ->check(at_least(1));
  const CLI::Range seconds(1, 86400);
  serve_command->add_option("--read-timeout", s.read_timeout, "seconds for a request to come")
      ->check(seconds);
  serve_command
      ->add_option("--write-timeout", s.write_timeout,
                   "seconds in which a client takes nothing of its answer")
      ->check(seconds);
  serve_command->add_option("--grace", s.grace, "seconds for requests under way after SIGTERM")
      ->check(seconds);
  serve_command->add_option("--weights", s.weights, "what the weights are held in")
      ->check(CLI::IsMember(generation_weights()));
  device_option(serve_command, generation_device);
  serve_command->callback([&] { command = [&] { run_generation(prepare_serve, s); }; });

  InspectOptions i;
  CLI::App* inspect_command = app.add_subcommand(
      "inspect",
      "Print the tensors and the size of a model or checkpoint, and the parameters that WuNeng adds.");
  inspect_command->add_option("path", i.path, "a Hugging Face directory or a checkpoint")->required();
  inspect_command->add_flag("--tensors,!--no-tensors", i.tensors, "list every tensor");
  inspect_command->callback([&] { command = [&] { inspect(i); }; });

  try {
    require_command(app, argc, argv);
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {  // the same on all ranks: one of them says it
    return launcher::rank() > 0 ? e.get_exit_code() : app.exit(e);
  }
  const bool on_ranks = train_command->parsed() || precompute_command->parsed() || verify_command->parsed() ||
                        (launcher::ranks() > 1 && (generate_command->parsed() || serve_command->parsed()));
  if (!on_ranks) runtime.emplace();
  command();
  require(std::fflush(stdout) == 0 && !std::ferror(stdout), "stdout: cannot be written to");
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  std::optional<wuneng::Runtime> runtime;
  try {
    return run(argc, argv, runtime);
  } catch (const ErrorReported&) {
    return kFailed;
  } catch (const wuneng::ReportedError&) {
    wuneng::Runtime::abort(kFailed);
  } catch (const std::exception& e) {
    const std::string& rank = wuneng::rank_name();
    std::fprintf(stderr, "wuneng: error%s: %s\n", rank.empty() ? "" : (" on " + rank).c_str(),
                 one_line(e.what()).c_str());
    wuneng::Runtime::abort(kFailed);
  }
}
