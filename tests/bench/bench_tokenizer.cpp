// Tokens of a text file, over and over on one thread: MB/s and tokens/s, cold (nothing cached) and warm.
//
// usage: bench_tokenizer DIRECTORY FILE [LINES]
// LINES: the file is encoded in pieces of so many lines, as a corpus of documents is; 0 (the default): as one
// text. Prints one JSON object; bench_tokenizer.py puts it beside PyPI's `tokenizers`.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <iostream>

#include "data/tokenizer/tokenizer.h"
#include "runtime/error.h"
#include "runtime/file.h"

namespace wuneng {
namespace {

// Seconds of the processor: what other programs take of it does not count.
double now() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

std::vector<std::string_view> pieces(std::string_view text, int64_t lines) {
  std::vector<std::string_view> out;
  while (!text.empty()) {
    size_t end = lines == 0 ? text.size() : 0;
    for (int64_t i = 0; i < lines && end < text.size(); ++i)
      end = std::min(text.find('\n', end), text.size() - 1) + 1;
    out.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return out;
}

void run(const std::string& directory, const std::string& file, int64_t lines) {
  const std::string text = read_file(file);
  const double begin = now();
  const Tokenizer tokenizer = Tokenizer::load(directory);
  const double loaded = now() - begin;
  std::vector<int32_t> ids;
  double cold = 0, warm = 1e30;
  for (int round = 0; round < 6; ++round) {
    ids.clear();
    const double start = now();
    for (const std::string_view piece : pieces(text, lines)) tokenizer.encode(piece, ids);
    const double seconds = now() - start;
    if (round == 0) cold = seconds;
    warm = std::min(warm, seconds);
  }
  fmt::print(
      "{{\"load_s\": {:.3f}, \"bytes\": {}, \"tokens\": {}, \"cold_s\": {:.6f}, \"warm_s\": {:.6f}}}\n",
      loaded, text.size(), ids.size(), cold, warm);
}

}  // namespace
}  // namespace wuneng

int main(int argc, char** argv) {
  try {
    wuneng::require(argc == 3 || argc == 4, "usage: bench_tokenizer DIRECTORY FILE [LINES]");
    wuneng::run(argv[1], argv[2], argc == 4 ? std::atoll(argv[3]) : 0);
    return 0;
  } catch (const std::exception& e) {
    std::cerr << "bench_tokenizer: " << e.what() << "\n";
    return 1;
  }
}
