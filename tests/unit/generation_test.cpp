// The engine: a request's tokens against uncached logits, whatever runs beside it; sampling; limits.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include "model/generation/decoder_engine.h"
#include "model/generation/narrow_weights.h"
#include "model/mixers/registry.h"
#include "tests/error_of.h"
#include "tests/small_config.h"

namespace wuneng::generation_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr int64_t kVocab = 50;

std::unique_ptr<Decoder> small(const std::string& mixer = "wuneng", DType dtype = DType::f32) {
  auto model = std::make_unique<Decoder>(small_config(mixer, kVocab), Placement(), dtype);
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 1);
  for (const Parameter* p : model->parameters()) {
    const Tensor values = Tensor::empty(p->var.shape());
    const float size = values.ndim() >= 2 ? 3 / std::sqrt(float(values.shape().back())) : 0.5f;
    for (int64_t i = 0; i < values.numel(); ++i) values.f32()[i] = size * normal(random);
    p->var.value().copy_from(values);
  }
  return model;
}

std::vector<int32_t> prompt_of(int64_t length, int64_t n = 0) {
  std::vector<int32_t> out;
  for (int64_t i = 0; i < length; ++i) out.push_back(static_cast<int32_t>((i * i + 5 * n + 3 * i) % kVocab));
  return out;
}

struct Result {
  std::vector<int32_t> tokens;
  std::vector<ScoredToken> scored, prompt;
  Finish finish = Finish::none;
};
using Results = std::map<int64_t, Result>;

void collect(const std::vector<GenerationEvent>& events, Results& results) {
  for (const GenerationEvent& e : events) {
    Result& r = results[e.request];
    EXPECT_EQ(r.finish, Finish::none) << "an event after the last one of request " << e.request;
    if (!e.prompt.empty()) r.prompt = e.prompt;
    if (e.token) r.tokens.push_back(e.token->token), r.scored.push_back(*e.token);
    r.finish = e.finish;
  }
}

Results run(GenerationEngine& engine) {
  Results results;
  for (int step = 0; !engine.idle(); ++step) {
    if (step == 10000) throw std::runtime_error("the engine does not come to an end");
    collect(engine.step(), results);
  }
  return results;
}

Result run_alone(GenerationEngine& engine, const GenerationRequest& request) {
  engine.add(7, request);
  return run(engine)[7];
}

// Log-probabilities [T, vocabulary] of a whole document, without a cache, in f64 from its logits.
std::vector<std::vector<double>> uncached(Decoder& model, const std::vector<int32_t>& tokens) {
  const int64_t T = static_cast<int64_t>(tokens.size());
  Tape tape({}, false);
  const Tensor logits =
      model.logits(model.forward(tape, {Tensor::from(tokens, {T}), Tensor(), {0, T}}, {}).hidden.value());
  std::vector<std::vector<double>> out;
  for (int64_t t = 0; t < T; ++t) {
    std::vector<double> row(logits.f32() + t * kVocab, logits.f32() + (t + 1) * kVocab);
    double sum = 0;
    for (const double x : row) sum += std::exp(x);
    for (double& x : row) x -= std::log(sum);
    out.push_back(row);
  }
  return out;
}

int32_t most_probable(const std::vector<double>& row) {
  return static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

TEST(Generation, GreedyTokensAndScoresAreThoseOfTheUncachedModel) {
  for (const char* mixer : {"attention", "wuneng", "rwkv7"}) {
    const auto model = small(mixer);
    DecoderEngine engine(small(mixer), {.max_sequences = 2, .context_length = 64, .prefill_chunk = 5});
    const std::vector<int32_t> prompt = prompt_of(19);
    const Result found = run_alone(engine, {.prompt = prompt,
                                            .max_tokens = 12,
                                            .sampling = {.temperature = 0},
                                            .logprobs = 3,
                                            .prompt_logprobs = true});
    ASSERT_EQ(found.tokens.size(), 12u) << mixer;
    EXPECT_EQ(found.finish, Finish::length);
    std::vector<int32_t> all = prompt;
    all.insert(all.end(), found.tokens.begin(), found.tokens.end());
    const auto expected = uncached(*model, all);
    std::vector<ScoredToken> scored = found.prompt;
    scored.insert(scored.end(), found.scored.begin(), found.scored.end());
    ASSERT_EQ(scored.size(), all.size());
    EXPECT_EQ(scored[0].token, all[0]);
    EXPECT_TRUE(scored[0].top.empty());
    for (size_t t = 1; t < all.size(); ++t) {
      const auto& row = expected[t - 1];
      if (t >= prompt.size()) {
        EXPECT_EQ(all[t], most_probable(row)) << mixer << " " << t;
      }
      EXPECT_EQ(scored[t].token, all[t]);
      EXPECT_NEAR(scored[t].logprob, row[all[t]], 2e-5) << mixer << " " << t;
      std::vector<double> sorted = row;
      std::sort(sorted.rbegin(), sorted.rend());
      ASSERT_EQ(scored[t].top.size(), 3u);
      for (int i = 0; i < 3; ++i) {
        EXPECT_NEAR(scored[t].top[i].second, sorted[i], 2e-5);
        EXPECT_NEAR(row[scored[t].top[i].first], sorted[i], 2e-5);
      }
    }
  }
}

// 40 requests, more than have slots; most run at the same time, more than one product takes. Two are
// cancelled.
TEST(Generation, ARequestDoesNotDependOnWhatRunsBesideIt) {
  for (const char* mixer : {"attention", "wuneng", "rwkv7"}) {
    const EngineOptions options{.max_sequences = 36, .context_length = 100, .prefill_chunk = 7};
    DecoderEngine engine(small(mixer), options), alone(small(mixer), options);
    const auto request = [](int64_t n) {
      return GenerationRequest{.prompt = prompt_of(n % 8 ? 1 + n % 6 : 30, n),
                               .max_tokens = n == 5 ? 3 : 60 + n % 9,
                               .sampling = {.temperature = 0.9, .seed = static_cast<uint64_t>(n)},
                               .logprobs = 0};
    };
    for (int64_t n = 0; n < 40; ++n) engine.add(n, request(n));
    Results results;
    for (int step = 0; !engine.idle(); ++step) {
      if (step == 3) engine.cancel(39), engine.cancel(1);  // one waits, one runs
      if (step == 3) results.erase(1);
      collect(engine.step(), results);
    }
    EXPECT_EQ(results.count(39) + results.count(1), 0u) << "events of a request that was cancelled";
    EXPECT_EQ(results.size(), 38u);
    for (const int64_t n : {0, 5, 9, 24, 37}) {  // long and short prompts, an early end, one that waits
      const Result expected = run_alone(alone, request(n));
      EXPECT_EQ(results[n].tokens, expected.tokens) << mixer << " " << n;
      for (size_t i = 0; i < expected.scored.size(); ++i)
        EXPECT_EQ(results[n].scored[i].logprob, expected.scored[i].logprob)
            << mixer << " " << n;  // to the bit
    }
  }
}

TEST(Generation, SeedsAndEnds) {
  DecoderEngine engine(small(), {.max_sequences = 1, .context_length = 24});
  GenerationRequest request{.prompt = prompt_of(9), .max_tokens = 10, .sampling = {.temperature = 2}};
  const Result first = run_alone(engine, request);
  EXPECT_EQ(run_alone(engine, request).tokens, first.tokens);
  request.sampling.seed = 1;
  EXPECT_NE(run_alone(engine, request).tokens, first.tokens);
  request.sampling.seed = 0;
  request.end_tokens = {first.tokens[4]};
  const Result ended = run_alone(engine, request);
  EXPECT_EQ(ended.finish, Finish::end_token);
  EXPECT_EQ(ended.tokens.back(), first.tokens[4]);
  EXPECT_LE(ended.tokens.size(), 5u);
  request.end_tokens.clear();
  request.max_tokens = 100;  // the context ends first
  const Result longest = run_alone(engine, request);
  EXPECT_EQ(longest.tokens.size(), 15u);
  EXPECT_EQ(longest.finish, Finish::length);
  request.prompt = prompt_of(24);
  request.prompt_logprobs = true;
  const Result full = run_alone(engine, request);
  EXPECT_TRUE(full.tokens.empty());
  EXPECT_EQ(full.prompt.size(), 24u);
  request.prompt = prompt_of(5);
  request.max_tokens = 0;
  EXPECT_EQ(run_alone(engine, request).prompt.size(), 5u);
}

TEST(Generation, RefusesWhatItCannotDo) {
  DecoderEngine engine(small(), {.max_sequences = 1, .context_length = 24});
  const auto error = [&](const std::function<void(GenerationRequest&)>& change) {
    GenerationRequest request{.prompt = prompt_of(4)};
    change(request);
    return error_of([&] { engine.add(3, request); });
  };
  EXPECT_THAT(error([](auto& r) { r.prompt = {}; }), HasSubstr("request 3: prompt: expected at least one"));
  EXPECT_THAT(error([](auto& r) { r.prompt = {50}; }), HasSubstr("expected tokens from 0 to 49, found 50"));
  EXPECT_THAT(error([](auto& r) { r.end_tokens = {-1}; }), HasSubstr("end_tokens: expected tokens from 0"));
  EXPECT_THAT(error([](auto& r) { r.prompt = prompt_of(25); }), HasSubstr("at most 24 tokens, found 25"));
  EXPECT_THAT(error([](auto& r) { r.max_tokens = -1; }), HasSubstr("max_tokens = -1"));
  EXPECT_THAT(error([](auto& r) { r.logprobs = 51; }), HasSubstr("logprobs = 51: expected -1 to 50"));
  EXPECT_THAT(error([](auto& r) { r.sampling.temperature = -1; }), HasSubstr("temperature = -1"));
  EXPECT_THAT(error([](auto& r) { r.sampling.top_p = 0; }), HasSubstr("top_p = 0"));
  EXPECT_THAT(error([](auto& r) { r.sampling.top_k = -1; }), HasSubstr("top_k = -1"));
  EXPECT_THAT(error([](auto& r) { r.sampling.min_p = 1.5; }), HasSubstr("min_p = 1.5"));
  EXPECT_THAT(error([](auto& r) { r.sampling.repetition_penalty = 0; }), HasSubstr("repetition_penalty = 0"));
  EXPECT_EQ(error([](auto&) {}), "no error");
  EXPECT_THAT(error([](auto&) {}), HasSubstr("request 3: expected a number that is not in use"));
  EXPECT_THAT(error_of([] { DecoderEngine(small(), {.max_sequences = 0}); }), HasSubstr("max_sequences = 0"));
}

// How often each token is drawn, against the probabilities of the definitions.
TEST(Sampler, DrawsWithTheProbabilitiesOfItsOptions) {
  const std::vector<float> logits = {1.0f, 3.0f, -1.0f, 2.0f, 2.5f, 0.0f};
  const std::vector<int32_t> before = {1, 2};
  const auto expected = [&](const Sampling& s) {
    std::vector<double> x(logits.begin(), logits.end());
    if (s.repetition_penalty != 1)
      for (const int32_t t : before)
        x[t] = x[t] > 0 ? x[t] / s.repetition_penalty : x[t] * s.repetition_penalty;
    std::vector<size_t> order = {0, 1, 2, 3, 4, 5};
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return x[a] > x[b]; });
    std::vector<double> p(6);
    const auto normalise = [&] {
      double sum = 0;
      for (const double y : p) sum += y;
      for (double& y : p) y /= sum;
    };
    for (size_t i = 0; i < 6; ++i) p[i] = std::exp(x[i] / s.temperature);
    if (s.top_k)
      for (size_t i = s.top_k; i < 6; ++i) p[order[i]] = 0;
    normalise();
    double reached = 0;
    for (const size_t i : order) {
      const double own = p[i];
      if (reached >= s.top_p) p[i] = 0;
      reached += own;
    }
    for (const size_t i : order)
      if (p[i] < s.min_p * p[order[0]]) p[i] = 0;
    normalise();
    return p;
  };
  for (const Sampling& s :
       {Sampling{}, Sampling{.temperature = 0.5}, Sampling{.top_k = 3}, Sampling{.top_k = 100},
        Sampling{.top_p = 0.6}, Sampling{.min_p = 0.3}, Sampling{.repetition_penalty = 2},
        Sampling{.temperature = 3, .top_k = 5, .top_p = 0.9, .min_p = 0.5, .repetition_penalty = 1.3}}) {
    const std::vector<double> p = expected(s);
    std::vector<int> drawn(6);
    constexpr int kDraws = 4000;
    for (int i = 0; i < kDraws; ++i) {
      Sampling seeded = s;
      seeded.seed = i;
      ++drawn[Sampler(seeded, before, 6)(logits.data())];
    }
    for (int t = 0; t < 6; ++t)
      EXPECT_NEAR(drawn[t], kDraws * p[t], p[t] == 0 ? 0 : 5 * std::sqrt(kDraws * p[t])) << "token " << t;
  }
  Sampler repeated({.temperature = 0, .repetition_penalty = 3}, {}, 6);
  EXPECT_EQ(repeated(logits.data()), 1);  // 3
  EXPECT_EQ(repeated(logits.data()), 4);  // 2.5, as 3 is 1 now
  EXPECT_EQ(repeated(logits.data()), 3);
}

// The definition of top-p: all tokens sorted. Equal logits among them, distributions that few and that most
// tokens belong to, and top-k before it.
TEST(Sampler, DrawsByTopPWhatASortedVocabularyGives) {
  constexpr int64_t kTokens = 3000;
  const auto sorted_draw = [](const std::vector<float>& logits, const Sampling& s) {
    std::vector<int32_t> order(kTokens);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    if (s.top_k) order.resize(s.top_k);
    std::vector<double> weights;
    for (const int32_t t : order)
      weights.push_back(std::exp((double(logits[t]) - logits[order[0]]) / s.temperature));
    const double all = std::accumulate(weights.begin(), weights.end(), 0.0);
    double kept = 0;
    size_t count = 0;
    while (count < weights.size() && kept < s.top_p * all) kept += weights[count++];
    double left = double(std::mt19937_64(s.seed)() >> 11) * 0x1p-53 * kept;
    for (size_t i = 0; i < count; ++i)
      if ((left -= weights[i]) < 0) return order[i];
    return order[count - 1];
  };
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 1);
  for (const float width : {0.1f, 1.0f, 4.0f}) {
    std::vector<float> logits(kTokens);
    for (float& x : logits) x = width * std::round(20 * normal(random)) / 20;
    for (const double top_p : {0.01, 0.5, 0.9, 0.9999})
      for (const int64_t top_k : {0, 200})
        for (uint64_t seed = 0; seed < 20; ++seed) {
          const Sampling s{.temperature = 0.8, .top_k = top_k, .top_p = top_p, .seed = seed};
          ASSERT_EQ(Sampler(s, {}, kTokens)(logits.data()), sorted_draw(logits, s))
              << width << " " << top_p << " " << top_k << " " << seed;
        }
  }
}

// A model in int8 computes what one computes whose f32 matrices are the rounded ones.
TEST(Generation, Int8WeightsAreThoseOfTheirRows) {
  const std::unique_ptr<Decoder> rounded = small(), expected = small();
  narrow_weights(*rounded, DType::i8);
  int matrices = 0;
  for (size_t i = 0; i < rounded->parameters().size(); ++i) {
    const Parameter& p = *rounded->parameters()[i];
    if (!p.row_scale.defined()) continue;
    ++matrices;
    const Tensor w = expected->parameters()[i]->var.value(), rows = p.var.value();
    for (int64_t n = 0; n < w.dim(0); ++n)
      for (int64_t k = 0; k < w.dim(1); ++k) {
        float& x = w.f32()[n * w.dim(1) + k];
        const float y = p.row_scale.f32()[n] * rows.data<int8_t>()[n * w.dim(1) + k];
        EXPECT_LE(std::abs(x - y), 0.501f * p.row_scale.f32()[n]) << p.name;
        x = y;
      }
  }
  EXPECT_GE(matrices, 2 * 7 + 2);
  for (const int64_t T : {5, 40}) {  // few rows, and many
    const std::vector<int32_t> prompt = prompt_of(T);
    SequenceCache caches[] = {rounded->make_cache(1, T), expected->make_cache(1, T)};
    const MicroBatch batch{Tensor::from(prompt, {T}), Tensor(), {0, T}};
    const Tensor a = rounded->logits(rounded->extend(batch, {0}, caches[0])),
                 b = expected->logits(expected->extend(batch, {0}, caches[1]));
    for (int64_t i = 0; i < a.numel(); ++i) ASSERT_NEAR(a.f32()[i], b.f32()[i], 2e-4) << T;
  }
}

}  // namespace
}  // namespace wuneng::generation_test
