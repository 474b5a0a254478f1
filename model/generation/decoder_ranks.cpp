#include "model/generation/decoder_ranks.h"

#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>

#include "parallel/parameter.h"

namespace wuneng {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kOrderTag = 1, kPayloadTag = 2, kLogitsTag = 3;
// A rank that follows looks for orders without a pause for so long, then this often.
constexpr auto kAwake = std::chrono::milliseconds(20), kNap = std::chrono::milliseconds(1);

std::shared_ptr<Decoder> whole_depth(std::shared_ptr<Decoder> model) {
  require(model->placement().stages == 1, "generation: expected a model of one pipeline stage, found {}",
          model->placement().stages);
  return model;
}

}  // namespace

struct DecoderRanks::Order {
  enum Kind : int64_t { extend, logits, clear, end };
  Kind kind;
  // extend: the numbers of tokens and of documents; logits: rows [a, b); clear: the slot.
  int64_t a = 0, b = 0;
  int64_t payload = 0;  // elements
};

DecoderRanks::DecoderRanks(std::shared_ptr<Decoder> model, int64_t slots, int64_t capacity)
    : model_(whole_depth(std::move(model))), cache_(model_->make_cache(slots, capacity)) {
  if (model_->placement().device.kind == DeviceKind::cuda && tp().size() == 1)
    recorded_.emplace(*model_, cache_);
}

void DecoderRanks::send(const Order& order, const std::vector<int64_t>& payload) {
  const auto to_all = [&](const std::vector<int64_t>& values, int tag) {
    const Tensor message = Tensor::empty({std::ssize(values)}, DType::i64);
    std::memcpy(message.data<int64_t>(), values.data(), values.size() * sizeof(int64_t));
    for (int peer = 1; peer < tp().size(); ++peer) tp().send(message, peer, tag, "generation: order");
  };
  to_all({order.kind, order.a, order.b, std::ssize(payload)}, kOrderTag);
  if (!payload.empty()) to_all(payload, kPayloadTag);
}

DecoderRanks::Order DecoderRanks::receive(std::vector<int64_t>& payload) {
  const Tensor message = Tensor::empty({4}, DType::i64);
  Request request = tp().irecv(message, 0, kOrderTag, "generation: order");
  for (const auto begin = Clock::now(); !request.done();)
    if (Clock::now() - begin > kAwake)
      std::this_thread::sleep_for(kNap);
    else
      std::this_thread::yield();
  request.wait();
  const int64_t* words = message.data<int64_t>();
  const Order order{static_cast<Order::Kind>(words[0]), words[1], words[2], words[3]};
  payload.resize(order.payload);
  if (order.payload > 0) {
    const Tensor values = Tensor::empty({order.payload}, DType::i64);
    tp().recv(values, 0, kPayloadTag, "generation: order");
    std::memcpy(payload.data(), values.data<int64_t>(), payload.size() * sizeof(int64_t));
  }
  return order;
}

void DecoderRanks::follow() {
  std::vector<int64_t> payload;
  for (Order order = receive(payload); order.kind != Order::end; order = receive(payload)) {
    run(order, payload);
    if (order.kind == Order::logits)
      tp().send(model_->logits(hidden_.rows(order.a, order.b)).to(Device{}), 0, kLogitsTag,
                "generation: logits");
  }
}

void DecoderRanks::run(const Order& order, const std::vector<int64_t>& payload) {
  if (order.kind == Order::clear) cache_.clear(order.a);
  if (order.kind != Order::extend) return;
  const auto first = payload.begin() + order.a;
  const std::vector<int32_t> tokens(payload.begin(), first);
  const std::vector<int64_t> documents(first, first + order.b + 1), slots(first + order.b + 1, payload.end());
  hidden_ = logits_ = {};
  if (recorded_ && recorded_->takes(documents, slots)) {
    const RecordedSteps::Output output = recorded_->step(tokens, slots);
    hidden_ = output.hidden;
    logits_ = output.logits;
  } else {
    hidden_ = model_->extend({Tensor::from(tokens, {order.a}), Tensor(), documents}, slots, cache_);
  }
}

template <class F>
auto DecoderRanks::led(const F& work) {
  try {
    return work();
  } catch (const std::exception& e) {
    if (tp().size() == 1) throw;
    std::fprintf(stderr, "wuneng: error: generation: %s\n", e.what());
    Runtime::abort(1);
  }
}

void DecoderRanks::extend(const std::vector<int32_t>& tokens, const std::vector<int64_t>& documents,
                          const std::vector<int64_t>& slots) {
  std::vector<int64_t> payload(tokens.begin(), tokens.end());
  payload.insert(payload.end(), documents.begin(), documents.end());
  payload.insert(payload.end(), slots.begin(), slots.end());
  const Order order{Order::extend, std::ssize(tokens), std::ssize(slots)};
  led([&] {
    send(order, payload);
    run(order, payload);
  });
}

Tensor DecoderRanks::logits(int64_t begin, int64_t end) {
  return led([&] {
    send({Order::logits, begin, end});
    if (logits_.defined()) return logits_.rows(begin, end).to(Device{});
    return gathered(model_->logits(hidden_.rows(begin, end)).to(Device{}));
  });
}

// Each rank has the columns of its shard of the vocabulary.
Tensor DecoderRanks::gathered(const Tensor& mine) {
  if (tp().size() == 1) return mine;
  const int64_t rows = mine.dim(0), vocab = config().vocab_size;
  const Tensor all = Tensor::empty({rows, vocab});
  for (int rank = 0; rank < tp().size(); ++rank) {
    const Range columns = shard_range(vocab, tp().size(), rank);
    const Tensor part = rank == 0 ? mine : Tensor::empty({rows, columns.size()});
    if (rank > 0) tp().recv(part, rank, kLogitsTag, "generation: logits");
    for (int64_t row = 0; row < rows; ++row)
      std::copy_n(part.f32() + row * columns.size(), columns.size(), all.f32() + row * vocab + columns.begin);
  }
  return all;
}

void DecoderRanks::clear(int64_t slot) {
  led([&] {
    send({Order::clear, slot});
    run({Order::clear, slot}, {});
  });
}

void DecoderRanks::end_others() {
  led([&] { send({Order::end}); });
}

}  // namespace wuneng
