#include "model/generation/recorded_steps.h"

#include <algorithm>
#include <numeric>

namespace wuneng {

bool RecordedSteps::takes(const std::vector<int64_t>& documents, const std::vector<int64_t>& slots) const {
  return documents.back() == std::ssize(slots) &&
         std::all_of(slots.begin(), slots.end(), [&](int64_t slot) { return cache_.length(slot) > 0; });
}

RecordedSteps::Output RecordedSteps::run(const Step& step) const {
  const Tensor hidden = model_.extend(step.extension, cache_);
  return {hidden, model_.logits(hidden)};
}

RecordedSteps::Output RecordedSteps::step(const std::vector<int32_t>& tokens,
                                          const std::vector<int64_t>& slots) {
  const int64_t n = std::ssize(slots);
  std::vector<int64_t> documents(n + 1);
  std::iota(documents.begin(), documents.end(), 0);
  const Continuation continuation = cache_.continuation(documents, slots);
  const Tensor on_host = Tensor::from(tokens, {n});
  auto& step = steps_[n];
  if (step) {
    step->extension.tokens.copy_from(on_host);
    for (const auto& [chunk, layout] : step->extension.layouts)
      layout->token_places.copy_from(DocumentLayout::places_of_tokens(continuation, chunk));
    step->graph.launch();
    cache_.advance(documents, slots);
    return step->output;
  }
  const Device device = model_.placement().device;
  auto fresh = std::make_unique<Step>();
  fresh->extension = model_.extension({on_host.to(device), Tensor(), documents}, continuation);
  const Output first = run(*fresh);  // loads kernels, and makes the tables that they read
  cache_.advance(documents, slots);
  fresh->graph = cuda::Graph::record(device.index, [&] { fresh->output = run(*fresh); });
  step = std::move(fresh);
  return first;
}

}  // namespace wuneng
