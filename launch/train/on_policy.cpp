#include "launch/train/on_policy.h"

#include <chrono>
#include <cmath>

#include "launch/train/continuations.h"
#include "launch/train/end_tokens.h"
#include "parallel/stream.h"
#include "runtime/hash.h"
#include "runtime/trace.h"
#include "runtime/watchdog.h"

namespace wuneng {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kTokens = 4;  // a message tag of the stream's communicator: 1 to 3 are the stream's

enum class Purpose : uint64_t { choice, sampling };

// Of a sequence of the data, by its number.
uint64_t random_bits(const TrainRecipe& r, int64_t sequence, Purpose purpose, uint64_t index = 0) {
  const uint64_t words[] = {r.data_seed, static_cast<uint64_t>(sequence), static_cast<uint64_t>(purpose),
                            index};
  return hash_of(words, sizeof words);
}

int64_t first_sequence(const TrainingData& data, const StreamItem& item) {
  return data.first_sequence(data.passes()[item.pass], item.micro_batch, item.student_dp);
}

// [2, T]: tokens, then labels.
Tensor packed(const MicroBatch& batch) {
  const Tensor out = Tensor::empty({2, batch.rows()}, DType::i32);
  out.rows(0, 1).copy_from(batch.tokens.view({1, batch.rows()}));
  out.rows(1, 2).copy_from(batch.labels.view({1, batch.rows()}));
  return out;
}
void unpack(const Tensor& both, MicroBatch& batch) {
  batch.tokens = both.rows(0, 1).view({both.dim(1)});
  batch.labels = both.rows(1, 2).view({both.dim(1)});
}

std::vector<int32_t> end_tokens_of(const TrainRecipe& r) {
  const bool bytes = r.tokenizer_from.empty() || !TextCodec::has_tokenizer(r.tokenizer_from);
  return end_tokens(bytes ? TextCodec::bytes() : TextCodec::load(r.tokenizer_from), r.student);
}

}  // namespace

EngineOptions on_policy_engine(const TrainRecipe& r) {
  return {.max_sequences = r.on_policy.sequences, .context_length = r.seq_len + 1};
}

bool is_on_policy(const TrainRecipe& r, const TrainingData& data, const StreamItem& item) {
  if (r.on_policy.share <= 0 || !data.passes()[item.pass].trains) return false;
  return std::ldexp(double(random_bits(r, first_sequence(data, item), Purpose::choice)), -64) <
         r.on_policy.share;
}

OnPolicyBatches::OnPolicyBatches(const TrainRecipe& recipe, const Mesh& mesh, const TrainingData& data,
                                 Decoder& model, const Comm& stream)
    : recipe_(recipe),
      mesh_(mesh),
      data_(data),
      stream_(stream),
      engine_(std::shared_ptr<Decoder>(std::shared_ptr<void>(), &model), on_policy_engine(recipe)),
      end_tokens_(end_tokens_of(recipe)) {}

void OnPolicyBatches::run(int64_t pass, std::vector<MicroBatch>& batches) {
  while (!sends_.empty() && sends_.front().done()) sends_.pop_front();
  const auto begin = Clock::now();
  const trace::Span span(trace::Kind::compute, "on-policy generation");
  for (int m = 0; m < static_cast<int>(batches.size()); ++m) {
    const StreamItem item{pass, m, mesh_.dp_rank};
    if (!is_on_policy(recipe_, data_, item)) continue;
    watchdog::enter(
        fmt::format("step {}: continuing the documents of micro-batch {}", data_.passes()[pass].step + 1, m));
    const Tensor both = packed(batches[m]);
    unpack(both, batches[m]);
    if (mesh_.tp_rank == 0) {
      generate(item, batches[m]);
      engine_.end_others();
    } else {
      engine_.follow();
    }
    mesh_.tp.broadcast(both, 0, "on-policy tokens");
    send(item, both);
  }
  seconds_ += std::chrono::duration<double>(Clock::now() - begin).count();
}

void OnPolicyBatches::generate(const StreamItem& item, MicroBatch& batch) {
  const std::vector<Prompt> prompts = prompts_of(batch, recipe_.on_policy.prompt_tokens);
  const int64_t sequence = first_sequence(data_, item);
  for (size_t i = 0; i < prompts.size(); ++i) {
    Sampling sampling{.temperature = recipe_.on_policy.temperature,
                      .seed = random_bits(recipe_, sequence, Purpose::sampling, i)};
    engine_.add(static_cast<int64_t>(i), {.prompt = prompts[i].tokens,
                                          .max_tokens = prompts[i].missing(),
                                          .sampling = sampling,
                                          .end_tokens = end_tokens_});
  }
  std::vector<std::vector<int32_t>> generated(prompts.size());
  while (!engine_.idle())
    for (const GenerationEvent& event : engine_.step())
      if (event.token) generated[event.request].push_back(event.token->token);
  for (size_t i = 0; i < prompts.size(); ++i) {
    put_continuation(batch, prompts[i], generated[i]);
    tokens_ += std::ssize(generated[i]);
  }
}

void OnPolicyBatches::send(const StreamItem& item, const Tensor& message) {
  if (!mesh_.teacher || mesh_.tp_rank > 0) return;
  const Layout& teacher = *mesh_.teacher;
  const int replica = serving_replica(stream_shape(mesh_, static_cast<int>(recipe_.accumulation)), item);
  for (int stage = 0; stage < teacher.pp; ++stage)
    for (int tp = 0; tp < teacher.tp; ++tp)
      sends_.push_back(stream_.isend(message, mesh_.world_rank(Role::teacher, replica, stage, tp), kTokens,
                                     "on-policy tokens to the teacher"));
}

void OnPolicyBatches::abandon(int64_t pass, int64_t end) {
  for (; pass < end; ++pass)
    for (int m = 0; m < recipe_.accumulation; ++m) {
      const StreamItem item{pass, m, mesh_.dp_rank};
      if (is_on_policy(recipe_, data_, item))
        send(item, packed(data_.batch(data_.passes()[pass], m, mesh_.dp_rank)));
    }
}

void OnPolicyBatches::finish() {
  for (Request& request : sends_) request.wait();
  sends_.clear();
}

void receive_on_policy(const Comm& stream, const Mesh& mesh, const StreamItem& item, MicroBatch& batch) {
  const Tensor both = Tensor::empty({2, batch.rows()}, DType::i32);
  stream.recv(both, mesh.world_rank(Role::student, item.student_dp, 0, 0), kTokens,
              "on-policy tokens from the student");
  unpack(both, batch);
}

}  // namespace wuneng
