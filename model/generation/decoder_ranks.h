// A decoder with its cache on the ranks of a tensor-parallel group, for generation. Rank 0 leads: it decides
// which tokens run and gets the logits. The others follow: they hold their shards of the heads and of the
// vocabulary, and run what rank 0 orders.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "model/generation/recorded_steps.h"

namespace wuneng {

class DecoderRanks {
 public:
  // The model has one stage; its tp group is this one. slots, capacity: of the cache, equal on all ranks.
  DecoderRanks(std::shared_ptr<Decoder> model, int64_t slots, int64_t capacity);

  const ModelConfig& config() const { return model_->config(); }
  const SequenceCache& cache() const { return cache_; }

  // On rank 0. Between an error and the end of the process the other ranks wait: where there are any, an
  // error is printed here and ends all ranks.
  //
  // New tokens [0, documents.back()), document i of the sequence in slots[i].
  void extend(const std::vector<int32_t>& tokens, const std::vector<int64_t>& documents,
              const std::vector<int64_t>& slots);
  // Of rows [begin, end) of the last extend(): [end - begin, vocab] f32 on the host.
  Tensor logits(int64_t begin, int64_t end);
  void clear(int64_t slot);
  void end_others();  // they return from follow()

  // On the other ranks: until rank 0 calls end_others(). Waits without a limit of time, and without using a
  // processor for long.
  void follow();

 private:
  struct Order;
  const Comm& tp() const { return model_->placement().tp; }
  void send(const Order& order, const std::vector<int64_t>& payload = {});
  Order receive(std::vector<int64_t>& payload);
  void run(const Order& order, const std::vector<int64_t>& payload);
  Tensor gathered(const Tensor& mine);
  template <class F>
  auto led(const F& work);

  std::shared_ptr<Decoder> model_;
  SequenceCache cache_;
  std::optional<RecordedSteps> recorded_;  // on a GPU, of one rank
  Tensor hidden_;                          // of the last extend() [T, d]
  Tensor logits_;                          // and [T, vocab], where it was a recorded step
};

}  // namespace wuneng
