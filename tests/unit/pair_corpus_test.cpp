// Preference pairs: both answers of a pair in one micro-batch, whatever the layout, every pair once an epoch,
// and files that do not make pairs.
#include "data/batches/pair_corpus.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <set>

#include "data/token_files/token_info.h"
#include "data/token_files/token_writer.h"
#include "launch/train/training_data.h"
#include "tests/error_of.h"
#include "tests/unit/scratch_dir.h"
#include "tests/unit/tensor_values.h"

namespace wuneng::pair_corpus_test {
namespace {

using ::testing::HasSubstr;

constexpr int kPairs = 60;

// Trains on pairs, and needs no teacher's files.
class ToyObjective : public OutputObjective {
 public:
  std::vector<std::string> teacher_signals() const override { return {}; }
  MeanOver mean_over() const override { return MeanOver::pairs; }
  std::vector<std::string> sums() const override { return {"loss"}; }
  Var loss(Tape& tape, const ObjectiveInputs&, const Tensor&) const override {
    return tape.output(Tensor::zeros({1}, DType::f64), false);
  }
  std::vector<Metric> metrics(const std::vector<double>& sums) const override { return {{"loss", sums[0]}}; }
};

// Answer `side` of pair n: all its tokens are 2 n + side + 1, and the first of them is the prompt.
class PairCorpusTest : public ScratchTest {
 protected:
  void SetUp() override {
    ScratchTest::SetUp();
    objective_registry()["toy_pairs"] = [](const LossOptions&) -> std::unique_ptr<Objective> {
      return std::make_unique<ToyObjective>();
    };
    std::mt19937_64 random(3);
    for (int side = 0; side < 2; ++side) {
      MaskedTokenWriter writer(path(side == 0 ? "p_chosen" : "p_rejected"), TokenType::u16, true);
      for (int n = 0; n < kPairs; ++n) {
        const size_t length = 2 + random() % 14;
        std::vector<uint8_t> mask(length, 1);
        mask[0] = 0;
        writer.add(std::vector<int32_t>(length, 2 * n + side + 1), mask);
        lengths_[{n, side}] = static_cast<int64_t>(length);
      }
      writer.finish();
    }
  }

  TrainRecipe load(std::vector<std::string> overrides = {}, const std::string& prefix = "p") const {
    write("recipe.toml",
          "[student]\nhidden_size = 8\nintermediate_size = 8\nlayers = 1\nheads = 1\nmixer = \"attention\"\n"
          "vocab_size = 300\n[loss]\nobjective = \"toy_pairs\"\n[optimizer]\nsteps = 40\n[run]\nout = \"" +
              path("out") +
              "\"\neval_every = 20\n[data]\nseq_len = 32\nmicro_batch = 2\nheld_out_every = 5\npaths = [\"" +
              path(prefix) + "\"]\n");
    return TrainRecipe::load(path("recipe.toml"), overrides);
  }

  // The pairs of a micro-batch, which are checked against the files.
  std::vector<int> pairs_of(const MicroBatch& batch) const {
    std::vector<int> out;
    const auto tokens = values(batch.tokens), labels = values(batch.labels);
    std::set<int64_t> answers;
    for (const int64_t document : batch.pairs) {
      const int first = tokens.at(batch.documents.at(document));
      EXPECT_EQ(first % 2, 1);
      const int pair = (first - 1) / 2;
      out.push_back(pair);
      for (int side = 0; side < 2; ++side) {
        const int64_t begin = batch.documents.at(document + side),
                      end = batch.documents.at(document + side + 1);
        answers.insert(document + side);
        EXPECT_EQ(end - begin, lengths_.at({pair, side}));
        for (int64_t t = begin; t < end; ++t) {
          EXPECT_EQ(tokens[t], 2 * pair + side + 1);
          EXPECT_EQ(labels[t], t + 1 < end ? tokens[t] : kNoLabel);
        }
      }
    }
    // What is in no pair is padding.
    for (size_t d = 0; d + 1 < batch.documents.size(); ++d)
      if (!answers.contains(static_cast<int64_t>(d)))
        for (int64_t t = batch.documents[d]; t < batch.documents[d + 1]; ++t) {
          EXPECT_EQ(tokens[t], 0);
          EXPECT_EQ(labels[t], kNoLabel);
        }
    return out;
  }

  void TearDown() override {
    objective_registry().erase("toy_pairs");
    ScratchTest::TearDown();
  }

  std::map<std::pair<int, int>, int64_t> lengths_;
};

TEST_F(PairCorpusTest, PairsStayTogetherAndComeOnceAnEpoch) {
  const TrainingData data(load());
  EXPECT_THAT(data.summary().at(0), HasSubstr(" pairs, "));
  std::map<int, int> seen;
  std::vector<std::vector<int>> steps;
  for (const Pass& pass : data.passes())
    if (pass.trains) {
      steps.push_back(pairs_of(data.batch(pass, 0, 0)));
      for (const int pair : steps.back()) ++seen[pair];
    }
  std::set<int> held_out;
  for (const Pass& pass : data.passes())
    if (!pass.trains)
      for (const int pair : pairs_of(data.batch(pass, 0, 0))) held_out.insert(pair);
  EXPECT_GT(held_out.size(), 2u);
  EXPECT_EQ(seen.size() + held_out.size(), size_t{kPairs});
  int least = INT32_MAX, most = 0;
  for (const auto& [pair, times] : seen) {
    EXPECT_FALSE(held_out.contains(pair));
    least = std::min(least, times), most = std::max(most, times);
  }
  EXPECT_GE(least, 2);         // several epochs
  EXPECT_LE(most - least, 1);  // in another order each
  std::set<std::vector<int>> orders(steps.begin(), steps.end());
  EXPECT_GT(orders.size(), steps.size() / 2);

  // The same pairs a step over replicas and accumulation, and after a resume.
  const auto of_layout = [&](const std::vector<std::string>& layout, int dp, int accumulation) {
    std::vector<std::vector<int>> out;
    TrainingData other(load(layout));
    if (dp == 1) other.resume_at(other.cursor(0));
    for (const Pass& pass : other.passes()) {
      if (!pass.trains || pass.step >= 10) continue;
      out.emplace_back();
      for (int m = 0; m < accumulation; ++m)
        for (int rank = 0; rank < dp; ++rank)
          for (const int pair : pairs_of(other.batch(pass, m, rank))) out.back().push_back(pair);
    }
    return out;
  };
  const auto one = of_layout({"data.accumulation=4"}, 1, 4);
  EXPECT_EQ(of_layout({"layout.dp=2", "data.accumulation=2"}, 2, 2), one);
  EXPECT_EQ(of_layout({"layout.dp=2", "data.accumulation=4", "data.micro_batch=1"}, 2, 4), one);
  EXPECT_EQ(TrainingData(load()).fingerprint(), data.fingerprint());
  EXPECT_NE(TrainingData(load({"data.seq_len=33"})).fingerprint(), data.fingerprint());
}

TEST_F(PairCorpusTest, PairsWithoutRoomAreAnErrorOrLeftOut) {
  const auto length = [&](int pair) { return lengths_.at({pair, 0}) + lengths_.at({pair, 1}); };
  int64_t longest = 0;
  int too_long = 0;
  for (int n = 0; n < kPairs; ++n) longest = std::max(longest, length(n)), too_long += length(n) > 20;
  EXPECT_EQ(error_of([&] { TrainingData{load({fmt::format("data.seq_len={}", longest)})}; }), "no error");
  EXPECT_THAT(error_of([&] { TrainingData{load({"data.seq_len=20"})}; }),
              HasSubstr(fmt::format("data.seq_len = 20: {} pairs have more tokens, chosen and rejected "
                                    "together, the longest {}",
                                    too_long, longest)));
  const TrainingData data(load({"data.seq_len=20", "data.long_pairs=\"drop\""}));
  EXPECT_THAT(data.summary().back(), HasSubstr(fmt::format("left out {} pairs of more than 20", too_long)));
  std::set<int> seen;
  for (const Pass& pass : data.passes())
    for (const int pair : pairs_of(data.batch(pass, 0, 0))) seen.insert(pair);
  EXPECT_EQ(seen.size(), size_t(kPairs - too_long));
  EXPECT_THAT(error_of([&] {
                TrainingData{load({"data.seq_len=3", "data.long_pairs=\"drop\""})};
              }),
              HasSubstr("expected a pair of at most seq_len = 3 tokens to train on, found none"));
}

TEST_F(PairCorpusTest, FilesThatMakeNoPairsAreRefused) {
  const auto error = [&](std::vector<std::string> overrides = {}, const std::string& prefix = "p") {
    return error_of([&] { TrainingData{load(overrides, prefix)}; });
  };
  EXPECT_EQ(error(), "no error");
  EXPECT_EQ(error({}, "p_chosen"), "no error");
  EXPECT_EQ(error({}, "*.idx"), "no error");
  EXPECT_THAT(error({}, "p_rejected"), HasSubstr("expected preference pairs, PREFIX_chosen"));
  EXPECT_THAT(error({"data.kind=\"tokens\""}),
              HasSubstr("expected preference pairs for this loss.objective"));
  EXPECT_THAT(error({"data.packing=\"windows\""}), HasSubstr("unknown key data.packing"));
  EXPECT_THAT(error({"loss.objective=\"ce\""}), HasSubstr("found preference pairs, "));
  EXPECT_THAT(error({"loss.objective=\"ce\"", "data.kind=\"pairs\""}),
              HasSubstr("expected text or token files for this loss.objective"));

  const auto put = [&](const std::string& name, const std::vector<std::vector<uint8_t>>& masks, bool masked) {
    MaskedTokenWriter writer(path(name), TokenType::u16, masked);
    for (const auto& mask : masks) writer.add(std::vector<int32_t>(mask.size(), 5), mask);
    writer.finish();
  };
  using Masks = std::vector<std::vector<uint8_t>>;
  const Masks good(30, {0, 1, 1});
  put("q_chosen", good, true);
  EXPECT_THAT(error({}, "q"), HasSubstr("q_rejected.idx: expected the rejected answers"));
  put("q_rejected", Masks(29, {0, 1, 1}), true);
  EXPECT_THAT(error({}, "q"), HasSubstr("q_rejected: expected 30 documents as in"));
  put("r_chosen", good, false);
  put("r_rejected", good, false);
  EXPECT_THAT(error({}, "r"), HasSubstr("r_chosen_mask: expected a loss mask"));
  Masks odd = good;
  odd[7] = {1, 0, 0};
  put("s_chosen", good, true);
  put("s_rejected", odd, true);
  EXPECT_THAT(error({}, "s"), HasSubstr("s_rejected: document 7: expected a token with a loss after its"));
  odd[7] = {};
  put("s_rejected", odd, true);
  EXPECT_THAT(error({}, "s"), HasSubstr("s_rejected: document 7: expected tokens, found none"));
  put("s_rejected", good, true);
  EXPECT_EQ(error({}, "s"), "no error");
  TokenInfo info{.tokenizer = "t", .vocab_size = 300, .kind = "supervised", .pair = "", .sources = {}};
  write_token_info(path("s_rejected"), info);
  EXPECT_THAT(error({}, "s"), HasSubstr("s_rejected.json: kind: expected \"preference\""));
  info.kind = "preference", info.pair = "elsewhere/other_chosen";
  write_token_info(path("s_rejected"), info);
  EXPECT_THAT(error({}, "s"), HasSubstr("pair: expected s_chosen, found other_chosen"));
  info.pair = "elsewhere/s_chosen";
  write_token_info(path("s_rejected"), info);
  EXPECT_THAT(error({}, "s"), HasSubstr("s_rejected.json: expected tokens of tokenizer  as in"));
}

}  // namespace
}  // namespace wuneng::pair_corpus_test
