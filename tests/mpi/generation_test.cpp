// Generation over tensor-parallel ranks: the tokens and log-probabilities of one rank.
#include <gtest/gtest.h>

#include <map>

#include "model/generation/decoder_engine.h"
#include "tests/mpi/gpus.h"
#include "tests/small_config.h"

namespace wuneng {
namespace {

struct Case {
  std::string mixer;
  Device device = {};
};

std::unique_ptr<Decoder> small(const std::string& mixer, const Placement& placement) {
  auto model = std::make_unique<Decoder>(small_config(mixer, 50), placement, DType::f32);
  model->initialize_random(3);
  for (const Parameter* p : model->parameters()) {  // for distinct logits
    if (p->var.shape().size() < 2) continue;
    const Tensor values = p->var.value().to(Device{});
    for (int64_t i = 0; i < values.numel(); ++i) values.f32()[i] *= 8;
    p->var.value().copy_from(values);
  }
  return model;
}

using Scored = std::map<int64_t, std::vector<ScoredToken>>;

Scored run(DecoderEngine& engine) {
  for (int64_t request = 0; request < 3; ++request) {
    GenerationRequest r{.max_tokens = 9 + request, .sampling = {.temperature = request * 0.5}, .logprobs = 2};
    for (int64_t i = 0; i < 5 + 9 * request; ++i) r.prompt.push_back((7 * i + request) % 50);
    r.prompt_logprobs = request == 1;
    engine.add(request, r);
  }
  engine.add(3, {.prompt = {1, 2, 3}, .max_tokens = 30});
  Scored out;
  for (int step = 0; !engine.idle(); ++step) {
    if (step == 6) engine.cancel(3);
    for (const GenerationEvent& event : engine.step()) {
      out[event.request].insert(out[event.request].end(), event.prompt.begin(), event.prompt.end());
      if (event.token) out[event.request].push_back(*event.token);
    }
  }
  out.erase(3);
  return out;
}

class GenerationMpi : public testing::TestWithParam<Case> {};

TEST_P(GenerationMpi, EqualsOneRank) {
  const auto& [mixer, device] = GetParam();
  if (device.kind == DeviceKind::cuda && cuda_device_count() == 0) GTEST_SKIP() << "no GPU here";
  const Comm tp = Comm::world().split(0, Comm::world().rank(), "tp");
  const Device mine = of_this_rank(device);
  tp.connect(mine);
  const EngineOptions options{.max_sequences = 3, .context_length = 40, .prefill_chunk = 6};
  DecoderEngine engine(small(mixer, {.tp = tp, .device = mine}), options);
  if (tp.rank() > 0) return engine.follow();
  const Scored found = run(engine);
  engine.end_others();
  DecoderEngine alone(small(mixer, {}), options);
  const Scored expected = run(alone);
  ASSERT_EQ(found.size(), 3u);
  for (const auto& [request, tokens] : expected) {
    ASSERT_EQ(found.at(request).size(), tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
      const ScoredToken& token = found.at(request)[i];
      EXPECT_EQ(token.token, tokens[i].token) << "request " << request << ", token " << i;
      EXPECT_NEAR(token.logprob, tokens[i].logprob, 1e-5);
      ASSERT_EQ(token.top.size(), tokens[i].top.size());
      for (size_t j = 0; j < token.top.size(); ++j)
        EXPECT_NEAR(token.top[j].second, tokens[i].top[j].second, 1e-5);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Mixers, GenerationMpi,
                         testing::Values(Case{"attention"}, Case{"rwkv7"}, Case{"wuneng"},
                                         Case{"wuneng", {DeviceKind::cuda, 0}}),
                         [](const auto& info) {
                           return info.param.mixer +
                                  (info.param.device.kind == DeviceKind::cuda ? "_gpu" : "");
                         });

}  // namespace
}  // namespace wuneng
