// The subcommands of `wuneng`, one file each (launch/NAME.cpp; train is in train.h).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace wuneng {

struct ConvertOptions {
  std::string from, to;  // a checkpoint or a Hugging Face directory; a Hugging Face directory
  std::string preset;    // not empty: make a WuNeng student of this preset from a Qwen2 directory
  std::string dtype = "f32";
  uint64_t seed = 0;
  int64_t max_file_bytes = 5'000'000'000;
};
void convert(const ConvertOptions& options);

struct LogitsOptions {
  std::string model, tokens,
      out;  // tokens: a JSON file {"tokens": [..], "documents": [0, .., T]}, or token ids in a text file
};
void logits(const LogitsOptions& options);

struct GenerateOptions {
  std::string model, prompt;
  int64_t tokens = 200;
  double temperature = 0.8;  // 0: the most likely token
  uint64_t seed = 0;
  int64_t window = 512;  // tokens that the model sees at most
};
void generate(const GenerateOptions& options);

struct InspectOptions {
  std::string path;
  bool tensors = true;
};
void inspect(const InspectOptions& options);

}  // namespace wuneng
