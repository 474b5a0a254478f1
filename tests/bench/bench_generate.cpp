// bench_generate MODEL f32|bf16|int8 PROMPT_TOKENS TOKENS [SEQUENCES]: seconds of a prompt and of each token,
// and the share of the memory's speed at which a step reads the weights. Prints one line of JSON, with the
// tokens of the first sequence.
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>

#include "model/generation/decoder_engine.h"
#include "model/generation/narrow_weights.h"
#include "model/hugging_face.h"
#include "runtime/threads.h"

namespace {

using namespace wuneng;

double seconds() {
  using namespace std::chrono;
  return duration<double>(steady_clock::now().time_since_epoch()).count();
}

// Bytes a second at which all threads together read memory, the best of some tries.
double memory_speed() {
  const Tensor x = Tensor::zeros({int64_t{1} << 28});  // 1 GiB
  double best = 0;
  for (int i = 0; i < 5; ++i) {
    std::vector<double> sums(64);
    const double begin = seconds();
    parallel_for(x.numel(), 1 << 20, [&](int64_t first, int64_t last) {
      const float* data = x.f32();
      double total = 0;
      for (int64_t at = first; at < last; at += 4096) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = at; j < std::min(at + 4096, last); ++j) sum += data[j];
        total += sum;
      }
      sums[first * thread_count() / x.numel()] += total;
    });
    best = std::max(best, double(x.bytes()) / (seconds() - begin));
    if (std::accumulate(sums.begin(), sums.end(), 0.0) != 0) return 0;
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5)
    return std::fprintf(stderr, "usage: bench_generate MODEL f32|bf16|int8 PROMPT TOKENS [SEQUENCES]\n"), 1;
  const int64_t prompt = std::atoll(argv[3]), tokens = std::atoll(argv[4]),
                sequences = argc > 5 ? std::atoll(argv[5]) : 1;
  auto model = std::make_unique<Decoder>(ModelConfig::from_directory(argv[1]), Placement(),
                                         std::string(argv[2]) == "f32" ? DType::f32 : DType::bf16);
  load_weights(*model, *open_hugging_face(argv[1]), 0);
  if (std::string(argv[2]) == "int8") narrow_weights(*model, DType::i8);
  int64_t bytes = 0;  // that a token reads: all but an input embedding that is not the output's too
  for (const Parameter* p : model->parameters())
    if (p->name != "model.embed_tokens.weight" || model->config().tie_word_embeddings)
      bytes += p->var.value().bytes();
  DecoderEngine engine(std::move(model), {.max_sequences = sequences, .context_length = prompt + tokens});
  std::vector<int32_t> first;
  double in_prompts = 0, in_tokens = 0, best = 1e9;
  int64_t steps = 0;
  for (int64_t i = 0; i < sequences; ++i) {
    GenerationRequest request{.max_tokens = tokens, .sampling = {.temperature = 0}};
    for (int64_t t = 0; t < prompt; ++t)
      request.prompt.push_back(static_cast<int32_t>((t * 7919 + i * 31 + 17) % engine.vocab_size()));
    engine.add(i, request);
  }
  int64_t begun = 0;
  while (!engine.idle()) {
    const double begin = seconds();
    const auto events = engine.step();
    const double took = seconds() - begin;
    begun < sequences ? in_prompts += took : (in_tokens += took, best = std::min(best, took), ++steps, 0.0);
    for (const GenerationEvent& e : events) {
      if (e.request == 0 && e.token) first.push_back(e.token->token);
      if (e.token && begun < sequences && e.request == begun) ++begun;
    }
  }
  const double a_step = in_tokens / double(steps), speed = memory_speed();
  std::printf("%s\n", nlohmann::json{{"prompt_seconds", in_prompts},
                                     {"step_seconds", a_step},
                                     {"best_step_seconds", best},
                                     {"weight_bytes", bytes},
                                     {"memory_gb_per_second", speed / 1e9},
                                     {"share_of_memory_speed", double(bytes) / a_step / speed},
                                     {"tokens", first}}
                          .dump()
                          .c_str());
}
