// Packing, mixtures and the order of sequences: every token once per epoch, exact proportions, and the same
// samples for any layout of replicas and after any resume.
#include "data/batches/packing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <thread>

#include "data/batches/batch.h"
#include "data/batches/prefetch.h"
#include "runtime/error.h"
#include "tests/unit/tensor_values.h"

namespace wuneng::packing_test {
namespace {

// Documents of given lengths; every token of the training split is unique.
class NumberedCorpus : public Corpus {
 public:
  explicit NumberedCorpus(const std::vector<int64_t>& lengths, int64_t held_out = 0, int32_t first = 0)
      : begin_{0}, held_out_(held_out), first_(first) {
    for (const int64_t length : lengths) begin_.push_back(begin_.back() + length);
  }
  int32_t vocab_size() const override { return INT32_MAX; }
  std::string tokenizer() const override { return ""; }
  int64_t size(Split split) const override { return split == Split::train ? begin_.back() : held_out_; }
  int64_t documents(Split split) const override {
    return split == Split::train ? static_cast<int64_t>(begin_.size()) - 1 : held_out_ > 0;
  }
  int64_t document_begin(Split split, int64_t d) const override {
    return split == Split::train ? begin_[d] : d * held_out_;
  }
  Sample read(Split split, int64_t begin, int64_t count) const override {
    Sample out;
    const int32_t first = split == Split::train ? first_ : first_ + (1 << 24);
    for (int64_t row = begin; row < begin + count; ++row) {
      const bool starts = split == Split::train && std::binary_search(begin_.begin(), begin_.end(), row);
      const bool ends = split == Split::train ? std::binary_search(begin_.begin(), begin_.end(), row + 1)
                                              : row + 1 == held_out_;
      if (row == begin || starts) out.document_begin.push_back(row - begin);
      out.tokens.push_back(first + static_cast<int32_t>(row));
      out.labels.push_back(ends ? kNoLabel : first + static_cast<int32_t>(row) + 1);
    }
    return out;
  }
  uint64_t fingerprint() const override { return static_cast<uint64_t>(first_); }

 private:
  std::vector<int64_t> begin_;
  int64_t held_out_;
  int32_t first_;
};

std::vector<int64_t> random_lengths(int64_t count, int64_t most, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int64_t> lengths(count);
  for (int64_t& length : lengths)  // many short ones, few long ones
    length = 1 + static_cast<int64_t>(std::pow(double(most), double(random() % 1000) / 1000));
  return lengths;
}

// Tokens that are not padding: padding is token 0 without a label, and token 0 is not used here.
std::vector<int32_t> tokens_of(const MicroBatch& batch) {
  std::vector<int32_t> out;
  std::ranges::copy_if(values(batch.tokens), std::back_inserter(out), [](int32_t t) { return t != 0; });
  return out;
}

TEST(Packing, EveryTokenOnceAnEpochAndNeverBeyondTheLength) {
  for (const int64_t seq_len : {1, 7, 64, 100, 4097}) {
    const std::vector<int64_t> lengths = random_lengths(700, 900, seq_len);
    const NumberedCorpus corpus(lengths, 0, 1);
    const PackingPlan plan(corpus, Split::train, PackingRule::best_fit, seq_len);
    std::vector<int> seen(corpus.size(Split::train), 0);
    for (int64_t s = 0; s < plan.sequences(); ++s) {
      int64_t rows = 0;
      for (const Piece& piece : plan.pieces(s)) {
        rows += piece.rows;
        for (int64_t row = piece.row; row < piece.row + piece.rows; ++row) ++seen[row];
        EXPECT_EQ(corpus.read(Split::train, piece.row, piece.rows).document_begin.size(), 1u);
      }
      EXPECT_GT(rows, 0);
      EXPECT_LE(rows, seq_len);
    }
    EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), static_cast<int64_t>(seen.size())) << seq_len;
    EXPECT_TRUE(plan.pieces(plan.sequences()).empty());
    EXPECT_DOUBLE_EQ(plan.efficiency(), double(seen.size()) / double(plan.sequences() * seq_len));
    // A document is split only if it is longer than a sequence.
    std::set<int64_t> begins;
    for (int64_t s = 0; s < plan.sequences(); ++s)
      for (const Piece& piece : plan.pieces(s)) begins.insert(piece.row);
    int64_t pieces = 0;
    for (const int64_t length : lengths) pieces += (length + seq_len - 1) / seq_len;
    EXPECT_EQ(static_cast<int64_t>(begins.size()), pieces);
  }
}

TEST(Packing, IsBestFitDecreasing) {
  // 10 rows: 6 then 5 open two sequences; 4 fits into the first exactly, which best fit prefers; 3 goes to
  // the second, 2 fills it; 1 opens a third.
  const NumberedCorpus corpus({2, 5, 1, 6, 3, 4, 10}, 0, 1);
  const PackingPlan plan(corpus, Split::train, PackingRule::best_fit, 10);
  std::vector<std::vector<int64_t>> rows;
  for (int64_t s = 0; s < plan.sequences(); ++s) {
    rows.emplace_back();
    for (const Piece& piece : plan.pieces(s)) rows.back().push_back(piece.rows);
  }
  EXPECT_EQ(rows, (std::vector<std::vector<int64_t>>{{10}, {6, 4}, {5, 3, 2}, {1}}));
}

// The plan against a direct implementation that searches all sequences for every document.
TEST(Packing, AgreesWithAPlainSearch) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const int64_t seq_len = 65 + 211 * static_cast<int64_t>(seed);  // one to three levels of the bitmap
    const NumberedCorpus corpus(random_lengths(400, seq_len - 1, seed), 0, 1);
    std::vector<int64_t> lengths;
    for (int64_t d = 0; d < corpus.documents(Split::train); ++d)
      lengths.push_back(corpus.document_begin(Split::train, d + 1) - corpus.document_begin(Split::train, d));
    std::sort(lengths.rbegin(), lengths.rend());
    std::vector<int64_t> rooms;
    for (const int64_t length : lengths) {
      auto best = rooms.end();
      for (auto it = rooms.begin(); it != rooms.end(); ++it)
        if (*it >= length && (best == rooms.end() || *it < *best)) best = it;
      if (best == rooms.end()) best = rooms.insert(rooms.end(), seq_len);
      *best -= length;
    }
    const PackingPlan plan(corpus, Split::train, PackingRule::best_fit, seq_len);
    std::multiset<int64_t> expected(rooms.begin(), rooms.end()), found;
    for (int64_t s = 0; s < plan.sequences(); ++s) {
      int64_t room = seq_len;
      for (const Piece& piece : plan.pieces(s)) room -= piece.rows;
      found.insert(room);
    }
    EXPECT_EQ(found, expected) << "seq_len " << seq_len;
  }
}

TEST(Packing, BatchesHoldDocumentsAndLabelsAcrossCuts) {
  const NumberedCorpus corpus({3, 11}, 0, 1);  // tokens 1..3 and 4..14; the second is split after 8 rows
  const BatchSource source(corpus, {.seq_len = 8, .micro_batch = 2, .packing = PackingRule::best_fit});
  ASSERT_EQ(source.epoch_sequences(), 2);
  EXPECT_DOUBLE_EQ(source.packing_efficiency(), 14.0 / 16);
  const MicroBatch batch = source.get(0);
  const bool swapped = values(batch.tokens)[0] != 4;
  const std::vector<int32_t> full = {4, 5, 6, 7, 8, 9, 10, 11}, full_labels = {5, 6, 7, 8, 9, 10, 11, 12};
  const std::vector<int32_t> rest = {1, 2, 3, 12, 13, 14, 0, 0},
                             rest_labels = {2, 3, kNoLabel, 13, 14, kNoLabel, kNoLabel, kNoLabel};
  const auto part = [](const std::vector<int32_t>& v, int i) {
    return std::vector<int32_t>(v.begin() + 8 * i, v.begin() + 8 * i + 8);
  };
  EXPECT_EQ(part(values(batch.tokens), swapped), full);
  EXPECT_EQ(part(values(batch.labels), swapped), full_labels);
  EXPECT_EQ(part(values(batch.tokens), !swapped), rest);
  EXPECT_EQ(part(values(batch.labels), !swapped), rest_labels);
  EXPECT_EQ(batch.documents,
            swapped ? (std::vector<int64_t>{0, 3, 6, 8, 16}) : (std::vector<int64_t>{0, 8, 11, 14, 16}));
}

TEST(Mixture, KeepsSharesAtEveryPointAndGoesThroughEachSourceInOrder) {
  const std::vector<double> weights = {0.5, 3, 1, 0.001};
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  const Mixture mixture = Mixture::of_weights(weights);
  std::vector<int64_t> drawn(weights.size(), 0);
  for (int64_t n = 0; n < 20000; ++n) {
    const Draw draw = mixture.at(n);
    ASSERT_EQ(draw.number, drawn[draw.source]) << "at " << n;
    ++drawn[draw.source];
    for (size_t i = 0; i < weights.size(); ++i)
      ASSERT_NEAR(double(drawn[i]), double(n + 1) * weights[i] / total, 2) << "source " << i << " at " << n;
  }
  const Draw far = mixture.at(int64_t{1} << 60);
  EXPECT_NEAR(double(far.number), 0x1p60 * weights[far.source] / total, 0x1p60 * 1e-9);
  const Mixture whole({3, 0, 7});
  std::map<int64_t, std::vector<int64_t>> numbers;
  for (int64_t n = 0; n < 10; ++n) numbers[whole.at(n).source].push_back(whole.at(n).number);
  EXPECT_EQ(numbers[0], (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(numbers[2], (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6}));
  EXPECT_THROW(Mixture::of_weights({1, 0}), Error);
  EXPECT_THROW(Mixture::of_weights({1, -1}), Error);
  EXPECT_THROW(Mixture::of_weights({1, 1e-30}), Error);
  EXPECT_THROW(Mixture::of_weights({1, std::numeric_limits<double>::quiet_NaN()}), Error);
}

class OrderTest : public ::testing::Test {
 protected:
  BatchSource source(int64_t micro_batch, uint64_t seed = 3) const {
    return BatchSource(
        {{&small_, 1}, {&large_, 2.5}},
        {.seq_len = 16, .micro_batch = micro_batch, .seed = seed, .packing = PackingRule::best_fit});
  }
  const NumberedCorpus small_{random_lengths(60, 30, 1), 200, 1},
      large_{random_lengths(150, 30, 2), 500, 1 << 20};
};

// The sequences of a step over all replicas, in any order, are the same for every layout with the same number
// of sequences per step.
TEST_F(OrderTest, SameSamplesForEveryNumberOfReplicasAndMicroBatches) {
  std::vector<std::vector<std::vector<int32_t>>> runs;
  for (const StepOrder order : {StepOrder{.micro_batch = 8, .accumulation = 1, .dp = 1},
                                {2, 4, 1},
                                {4, 1, 2},
                                {2, 2, 2},
                                {2, 1, 4},
                                {1, 2, 4}}) {
    const BatchSource batches = source(order.micro_batch);
    auto& steps = runs.emplace_back();
    for (int64_t step = 0; step < 40; ++step) {
      auto& tokens = steps.emplace_back();
      for (int64_t m = 0; m < order.accumulation; ++m)
        for (int64_t rank = 0; rank < order.dp; ++rank) {
          const auto part = tokens_of(batches.at(order.sequence(step, m, rank)));
          tokens.insert(tokens.end(), part.begin(), part.end());
        }
    }
    EXPECT_EQ(runs.back(), runs.front()) << "dp " << order.dp;  // in the same order too
  }
}

// A run is stopped at random steps and resumed with another layout each time: over two epochs of the small
// corpus every token is seen exactly twice.
TEST_F(OrderTest, LayoutChangesMidEpochSeeExactlyTheUnseen) {
  std::mt19937_64 random(11);
  const std::vector<StepOrder> layouts = {
      {.micro_batch = 1, .accumulation = 1, .dp = 1}, {1, 1, 2}, {3, 1, 4}, {2, 3, 2}};
  for (int trial = 0; trial < 10; ++trial) {
    std::vector<std::vector<int32_t>> seen;
    int64_t step = 0, sequence = 0;
    while (sequence < 400) {
      StepOrder order = layouts[random() % layouts.size()];
      order.first_step = step;
      order.first_sequence = sequence;
      const BatchSource batches = source(order.micro_batch);
      for (const int64_t end = step + 1 + static_cast<int64_t>(random() % 9); step < end; ++step)
        for (int64_t m = 0; m < order.accumulation; ++m)
          for (int64_t rank = 0; rank < order.dp; ++rank)
            seen.push_back(tokens_of(batches.at(order.sequence(step, m, rank))));
      sequence = order.seen_before(step);
    }
    std::vector<int32_t> tokens;
    for (const auto& part : seen) tokens.insert(tokens.end(), part.begin(), part.end());
    const BatchSource ones = source(1);
    std::vector<int32_t> expected;
    for (int64_t s = 0; s < sequence; ++s) {
      const auto part = tokens_of(ones.at(s));
      expected.insert(expected.end(), part.begin(), part.end());
    }
    ASSERT_EQ(tokens, expected);
  }
  const BatchSource ones = source(1);
  std::map<int32_t, int> count;
  int64_t of_small = 0;
  for (int64_t s = 0; of_small < 2 * ones.epoch_sequences(0); ++s) {
    const auto tokens = tokens_of(ones.at(s));
    if (tokens[0] >= 1 << 20) continue;
    ++of_small;
    for (const int32_t token : tokens) ++count[token];
  }
  EXPECT_EQ(static_cast<int64_t>(count.size()), small_.size(Split::train));
  for (const auto& [token, times] : count) EXPECT_EQ(times, 2) << token;
}

TEST_F(OrderTest, SeedMovesSequencesAndTheFingerprintTells) {
  EXPECT_NE(tokens_of(source(1, 4).at(0)), tokens_of(source(1, 3).at(0)));
  EXPECT_NE(source(1, 4).fingerprint(), source(1, 3).fingerprint());
  EXPECT_EQ(source(1).fingerprint(), source(4).fingerprint());
  const BatchOptions options{.seq_len = 16, .seed = 3, .packing = PackingRule::best_fit};
  EXPECT_NE(BatchSource({{&small_, 1}, {&large_, 2}}, options).fingerprint(), source(1).fingerprint());
  EXPECT_NE(BatchSource({{&large_, 1}, {&small_, 2.5}}, options).fingerprint(), source(1).fingerprint());
  EXPECT_NE(BatchSource({{&small_, 1}, {&large_, 2.5}}, {.seq_len = 16, .seed = 3}).fingerprint(),
            source(1).fingerprint());
}

TEST_F(OrderTest, HeldOutIsAllCorporaOnceAndMixedFromTheStart) {
  const BatchSource batches = source(4);
  std::multiset<int32_t> tokens;
  int from_small = 0;
  for (int64_t i = 0; i < batches.held_out_count(); ++i)
    for (const int32_t token : tokens_of(batches.held_out(i))) {
      tokens.insert(token);
      from_small += i < 4 && token < (1 << 24) + (1 << 20);
    }
  EXPECT_EQ(tokens.size(), 700u);
  EXPECT_EQ(std::set<int32_t>(tokens.begin(), tokens.end()).size(), 700u);
  EXPECT_NEAR(from_small, 16 * 16 * 2 / 7, 32);
  EXPECT_TRUE(tokens_of(batches.held_out(batches.held_out_count())).empty());
}

TEST_F(OrderTest, PrefetchedBatchesAreTheSameInOrder) {
  const BatchSource batches = source(2);
  for (const int threads : {1, 3}) {
    Prefetcher<MicroBatch> ahead([&](int64_t i) { return batches.get(i); }, 5, 65, 4, threads);
    for (int64_t i = 5; i < 65; ++i)
      ASSERT_EQ(values(ahead.next().tokens), values(batches.get(i).tokens)) << i;
    EXPECT_THROW(ahead.next(), Error);  // none left
  }
}

TEST(Prefetcher, WaitsAreMeasuredErrorsComeOutAndAheadIsBounded) {
  using namespace std::chrono_literals;
  std::atomic<int64_t> made{0};
  const auto make = [&](int64_t i) {
    std::this_thread::sleep_for(20ms);
    if (i == 3) fail("file gone");
    ++made;
    return i;
  };
  Prefetcher<int64_t> slow(make, 0, 100, 2);
  EXPECT_EQ(slow.next(), 0);
  EXPECT_GT(slow.seconds_waited(), 0.01);
  for (int i = 0; i < 500 && made < 3; ++i) std::this_thread::sleep_for(10ms);
  std::this_thread::sleep_for(50ms);
  EXPECT_EQ(made, 3);  // the one taken and two ahead
  const double waited = slow.seconds_waited();
  EXPECT_EQ(slow.next(), 1);
  EXPECT_EQ(slow.next(), 2);
  EXPECT_LT(slow.seconds_waited() - waited, 0.01);  // both were ready
  EXPECT_THROW(slow.next(), Error);
  EXPECT_EQ(slow.next(), 4);
  EXPECT_THROW(Prefetcher<int64_t>(make, 0, 1, 0), Error);
}

}  // namespace
}  // namespace wuneng::packing_test
