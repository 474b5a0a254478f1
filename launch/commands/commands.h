// The subcommands of `wuneng`, one file each (launch/NAME.cpp; train is in train.h).
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/text/chat_template.h"
#include "model/generation/engine.h"
#include "runtime/comm.h"

namespace wuneng {

struct TokenizeCommand {
  std::vector<std::string> paths, extensions;  // files, directories or globs
  std::string out;                             // prefix of the files to write
  std::string tokenizer;                       // a model's directory, or "bytes"
  std::string chat_template;                   // a name; empty: the directory's own
  ChatOptions chat_options;                    // of its variables
  std::string kind = "auto";                   // text, supervised or preference
  std::string format = "auto";                 // text or jsonl
  std::string encoding;                        // of files without a byte order mark; empty: UTF-8
  std::vector<std::string> ignored;            // members of records that need not be understood
  std::string separator;                       // between documents of a text file
  std::string end = "auto";                    // the token after a document: a token, "none", "auto"
  std::string bad_lines = "stop";              // or skip
  int64_t longest_bytes = int64_t{256} << 20;  // of a line or document
};
void tokenize(const TokenizeCommand& command);

struct PlanCommand {
  std::string recipe;
  std::vector<std::string> overrides;
  int gpus = 0;              // 0: the recipe's own layout; else the best layouts of so many
  std::string gpu = "h100";  // launch/plan/gpu.h
};
// Prints what each rank of a recipe's run would hold and compute, or the fastest layouts that fit.
void plan(const PlanCommand& command);

struct ConvertOptions {
  std::string from, to;   // a checkpoint or a Hugging Face directory; a Hugging Face directory
  std::string tokenizer;  // directory of the tokenizer's files; empty: that of the model
  std::string preset;     // not empty: make a WuNeng student of this preset from a teacher's directory
  std::string dtype = "f32";
  uint64_t seed = 0;
  int64_t max_file_bytes = 5'000'000'000;
};
void convert(const ConvertOptions& options);

struct LogitsOptions {
  std::string model, tokens,
      out;  // tokens: a JSON file {"tokens": [..], "documents": [0, .., T]}, or token ids in a text file
  std::string device = "auto";
};
void logits(const LogitsOptions& options);

struct GenerateOptions {
  std::string model, prompt;
  std::string prompts;        // in place of prompt: a file with one a line; the result is lines of JSON
  std::string tokenizer;      // "bytes" or a directory; empty: the model's own, else bytes where they fit
  std::string chat_template;  // a name; empty: the model's own
  ChatOptions chat_options;   // of its variables
  bool chat = false;          // the prompt is a user message; only the answer is printed
  int64_t tokens = 200;
  std::vector<std::string> stops;  // end a text and do not belong to it
  Sampling sampling = {.temperature = 0.8};
  int64_t max_sequences = 16;   // prompts that run at the same time
  std::string weights = "f32";  // what they are held in: generation_weights()
};
// Both run on the ranks of one tensor-parallel group, `tp`, each with its shard of the model. They check and
// read everything, and return the work, which is the same call on all ranks.
std::function<void()> prepare_generate(const GenerateOptions& options, Device device, const Comm& tp);

struct ServeOptions {
  std::string model;
  std::string name;  // what requests call it; empty: the last part of `model`
  std::string host = "127.0.0.1";
  int port = 8000;                        // 0: any
  std::string token_file;                 // empty: no token is asked for
  std::string tokenizer, chat_template;   // as in GenerateOptions
  ChatOptions chat_options;               // of requests that say nothing else
  int64_t max_sequences = 16;             // that run at the same time
  int64_t max_queue = 1024;               // that wait
  std::optional<int64_t> context_length;  // none: max_position_embeddings, at most 4096
  int64_t max_body_bytes = int64_t{16} << 20, max_connections = 512;
  int64_t read_timeout = 30, write_timeout = 30, grace = 30;  // seconds
  std::string weights = "f32";                                // generation_weights()
};
std::function<void()> prepare_serve(const ServeOptions& options, Device device, const Comm& tp);

struct InspectOptions {
  std::string path;
  bool tensors = true;
};
void inspect(const InspectOptions& options);

}  // namespace wuneng
