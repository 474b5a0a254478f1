// What data costs: opening and packing a data set of 10^9 tokens in 10^6 documents, and making micro-batches.
// The tokens are a hole in a sparse file: their number counts here, not what they are.
//
// usage: bench_data [DIRECTORY for 16 MB of files]
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>

#include "data/batches/batch.h"
#include "data/batches/token_corpus.h"
#include "data/token_files/token_file.h"
#include "data/token_files/token_format.h"

using namespace wuneng;
namespace fs = std::filesystem;

namespace {

constexpr int64_t kDocuments = 1'000'000;

template <class T>
void put(std::ofstream& out, T value) {
  out.write(reinterpret_cast<const char*>(&value), sizeof value);
}

// Lengths from 10 to some 10^5, of mean 1000, as web pages have them.
int64_t write_files(const std::string& prefix) {
  std::mt19937_64 random(1);
  std::lognormal_distribution<double> length(6.3, 1.1);
  std::vector<int32_t> lengths(kDocuments);
  int64_t tokens = 0;
  for (int32_t& l : lengths) tokens += l = 10 + static_cast<int32_t>(length(random));
  std::ofstream(prefix + ".bin").close();
  fs::resize_file(prefix + ".bin", static_cast<uintmax_t>(2 * tokens));
  std::ofstream idx(prefix + ".idx", std::ios::binary);
  idx.write(token_format::kMagic.data(), token_format::kMagic.size());
  put(idx, token_format::kVersion);
  put(idx, static_cast<uint8_t>(TokenType::u16));
  put(idx, uint64_t{kDocuments});
  put(idx, uint64_t{kDocuments + 1});
  for (const int32_t l : lengths) put(idx, l);
  int64_t offset = 0;
  for (const int32_t l : lengths) {
    put(idx, offset);
    offset += 2 * l;
  }
  for (int64_t d = 0; d <= kDocuments; ++d) put(idx, d);
  return tokens;
}

template <class F>
double seconds(const F& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

int main(int argc, char** argv) {
  const std::string root = argc > 1 ? argv[1] : fs::temp_directory_path().string();
  const std::string prefix = root + "/wuneng_bench_data";
  const int64_t tokens = write_files(prefix);
  std::unique_ptr<Corpus> corpus;
  const double open = seconds(
      [&] { corpus = open_token_corpus({.paths = {prefix}, .vocab_size = 65536, .held_out_every = 1000}); });
  std::printf("open %.2e tokens in %.0e documents: %.3f s\n", double(tokens), double(kDocuments), open);
  for (const int64_t seq_len : {2048, 4096, 32768})
    for (const PackingRule packing : {PackingRule::windows, PackingRule::best_fit}) {
      std::unique_ptr<BatchSource> source;
      const double plan = seconds([&] {
        source = std::make_unique<BatchSource>(
            *corpus, BatchOptions{.seq_len = seq_len, .micro_batch = 1, .packing = packing});
      });
      constexpr int kBatches = 200;
      const auto make = [&] {
        return double(kBatches * seq_len) / 1e6 / seconds([&] {
                 for (int i = 0; i < kBatches; ++i) source->get(i);
               });
      };
      const double first = make(), again = make();
      std::printf(
          "seq_len %5lld %-8s plan %.3f s, efficiency %.4f, %.1f M tokens/s made on one thread from the "
          "file, "
          "%.1f from memory\n",
          static_cast<long long>(seq_len), packing == PackingRule::windows ? "windows" : "best_fit", plan,
          source->packing_efficiency(), first, again);
    }
  fs::remove(prefix + ".bin");
  fs::remove(prefix + ".idx");
}
