// The data of a run: [data] of recipes, the same samples for every layout and after every resume, and teacher
// ranks that read the same data as student ranks.
#include "launch/train/training_data.h"

#include <gmock/gmock.h>
#include <xxhash.h>

#include <random>

#include "data/token_files/token_writer.h"
#include "runtime/error.h"
#include "tests/error_of.h"
#include "tests/unit/scratch_dir.h"
#include "tests/unit/tensor_values.h"

namespace wuneng::training_data_test {
namespace {

using ::testing::HasSubstr;

class TrainingDataTest : public ScratchTest {
 protected:
  void SetUp() override {
    ScratchTest::SetUp();
    std::mt19937_64 random(7);
    std::string text(200000, ' ');
    for (char& c : text) c = static_cast<char>('a' + random() % 26);
    write("text/a.txt", text);
    write("text/b.txt", text.substr(100, 700));
    write_tokens("one", 70, random);
    write_tokens("two", 30, random);
  }

  // Documents of up to 40 tokens with a mask; no token is 0, which is padding.
  void write_tokens(const std::string& name, int documents, std::mt19937_64& random) const {
    MaskedTokenWriter writer(path(name), TokenType::u16, true);
    for (int d = 0; d < documents; ++d) {
      std::vector<int32_t> tokens(1 + random() % 40);
      std::vector<uint8_t> loss_mask(tokens.size());
      for (size_t i = 0; i < tokens.size(); ++i) {
        tokens[i] = 1 + static_cast<int32_t>(random() % 299);
        loss_mask[i] = random() % 3 > 0;
      }
      writer.add(tokens, loss_mask);
    }
    writer.finish();
  }

  TrainRecipe load(const std::string& data, std::vector<std::string> overrides = {},
                   int64_t vocab = 300) const {
    write("recipe.toml",
          "[student]\nhidden_size = 8\nintermediate_size = 8\nlayers = 1\nheads = 1\n"
          "mixer = \"attention\"\nvocab_size = " +
              std::to_string(vocab) +
              "\n[loss]\nobjective = \"ce\"\n[optimizer]\nsteps = 60\n[run]\nout = \"out\"\n"
              "eval_every = 20\neval_batches = 5\n[data]\nseq_len = 16\n" +
              data);
    return TrainRecipe::load(path("recipe.toml"), overrides);
  }
  TrainRecipe tokens(std::vector<std::string> overrides = {}) const {
    return load("packing = \"best_fit\"\nheld_out_every = 8\n[[data.sources]]\npaths = [\"" + path("one") +
                    "\"]\nweight = 2\n[[data.sources]]\npaths = [\"" + path("two.idx") + "\"]\n",
                overrides);
  }
};

struct Rows {
  std::vector<int32_t> tokens, labels;
  bool operator==(const Rows&) const = default;
};

// All that a pass's replicas see, in the order of their numbers.
Rows rows_of(const TrainRecipe& r, const TrainingData& data, const Pass& pass) {
  Rows out;
  for (int m = 0; m < r.accumulation; ++m)
    for (int rank = 0; rank < r.layout.dp; ++rank) {
      const MicroBatch batch = data.batch(pass, m, rank);
      for (const int32_t t : values(batch.tokens)) out.tokens.push_back(t);
      for (const int32_t t : values(batch.labels)) out.labels.push_back(t);
    }
  return out;
}

std::vector<std::string> layout(int dp, int micro_batch, int accumulation) {
  return {fmt::format("layout.dp={}", dp), fmt::format("data.micro_batch={}", micro_batch),
          fmt::format("data.accumulation={}", accumulation)};
}

TEST_F(TrainingDataTest, OneTwoAndFourReplicasSeeTheSameSamples) {
  std::vector<std::vector<Rows>> runs;
  std::string fingerprint;
  for (const auto& [dp, micro_batch, accumulation] :
       std::vector<std::tuple<int, int, int>>{{1, 8, 1}, {1, 2, 4}, {2, 2, 2}, {4, 2, 1}, {4, 1, 2}}) {
    const TrainRecipe r = tokens(layout(dp, micro_batch, accumulation));
    const TrainingData data(r);
    auto& steps = runs.emplace_back();
    for (const Pass& pass : data.passes())
      if (pass.trains) steps.push_back(rows_of(r, data, pass));
    EXPECT_EQ(steps, runs[0]) << "dp " << dp;
    if (fingerprint.empty()) fingerprint = data.fingerprint();
    EXPECT_EQ(data.fingerprint(), fingerprint);
  }
  EXPECT_EQ(runs[0].size(), 60u);
}

// Sixty steps are several epochs of 100 short documents. A run that is stopped at random steps and resumed
// with another layout and number of sequences per step sees the same sequences as one replica, each exactly
// once.
TEST_F(TrainingDataTest, ResumedUnderOtherLayoutsSeesExactlyTheUnseen) {
  std::mt19937_64 random(5);
  const TrainRecipe plain = tokens(layout(1, 1, 1));
  const TrainingData one_by_one(plain);
  for (int trial = 0; trial < 10; ++trial) {
    Rows seen;
    DataCursor cursor;
    while (cursor.step < 60) {
      const TrainRecipe r = tokens(layout(1 << random() % 3, 1 + int(random() % 3), 1 + int(random() % 3)));
      TrainingData data(r);
      data.resume_at(cursor);
      const int64_t stop = std::min<int64_t>(60, cursor.step + 1 + int64_t(random() % 20));
      for (int64_t step = cursor.step; step < stop; ++step) {
        const Rows rows = rows_of(r, data, {true, step, 0});
        seen.tokens.insert(seen.tokens.end(), rows.tokens.begin(), rows.tokens.end());
        seen.labels.insert(seen.labels.end(), rows.labels.begin(), rows.labels.end());
      }
      cursor = data.cursor(stop);
    }
    ASSERT_EQ(static_cast<int64_t>(seen.tokens.size()), 16 * cursor.sequence);
    Rows expected;
    for (int64_t s = 0; s < cursor.sequence; ++s) {
      const MicroBatch batch = one_by_one.batch({true, s, 0}, 0, 0);
      for (const int32_t t : values(batch.tokens)) expected.tokens.push_back(t);
      for (const int32_t t : values(batch.labels)) expected.labels.push_back(t);
    }
    ASSERT_TRUE(seen == expected) << "trial " << trial;
  }
}

TEST_F(TrainingDataTest, EvaluationsAreTheSamePartInEveryLayout) {
  const auto held_out = [&](const std::vector<std::string>& overrides) {
    const TrainRecipe r = tokens(overrides);
    const TrainingData data(r);
    std::multiset<int32_t> labels;
    for (const Pass& pass : data.passes())
      if (!pass.trains && pass.step == 20)
        for (const int32_t label : rows_of(r, data, pass).labels)
          if (label != kNoLabel) labels.insert(label);
    return labels;
  };
  EXPECT_GT(held_out(layout(1, 1, 1)).size(), 20u);
  EXPECT_EQ(held_out(layout(1, 1, 1)), held_out(layout(2, 1, 1)));  // 5 micro-batches in 3 passes of 2
  EXPECT_EQ(held_out(layout(1, 1, 1)), held_out(layout(4, 1, 2)));  // in one pass of 8
}

TEST_F(TrainingDataTest, StudentAndTeacherReadersAgree) {
  const TrainRecipe r = tokens(layout(3, 1, 2));
  TrainingData data(r);
  data.resume_at({7, 31});
  const StreamShape shape{.student_dp = 3, .teacher_dp = 2, .micro_batches = 2};
  const int64_t first = first_pass(data.passes(), 7);
  const auto student = [](int dp) {
    return [dp](int64_t pass) { return std::vector<StreamItem>{{pass, 0, dp}, {pass, 1, dp}}; };
  };
  const auto teacher = [&](int dp) {
    return [shape, dp](int64_t pass) { return items_served(shape, pass, dp); };
  };
  std::vector<std::unique_ptr<PassReader>> students, teachers;
  for (int dp = 0; dp < 3; ++dp)
    students.push_back(std::make_unique<PassReader>(data, first, 1 + dp, student(dp)));
  for (int dp = 0; dp < 2; ++dp)
    teachers.push_back(std::make_unique<PassReader>(data, first, 2, teacher(dp)));
  for (int64_t pass = first; pass < static_cast<int64_t>(data.passes().size()); ++pass) {
    std::vector<std::vector<MicroBatch>> theirs;
    for (auto& reader : students) theirs.push_back(reader->next());
    for (int dp = 0; dp < 2; ++dp) {
      const auto items = items_served(shape, pass, dp);
      const auto served = teachers[dp]->next();
      ASSERT_EQ(served.size(), items.size());
      for (size_t i = 0; i < items.size(); ++i) {
        const MicroBatch& same = theirs[items[i].student_dp][items[i].micro_batch];
        const MicroBatch batch = data.batch(data.passes()[pass], items[i].micro_batch, items[i].student_dp);
        ASSERT_EQ(values(served[i].tokens), values(batch.tokens));
        ASSERT_EQ(values(same.tokens), values(batch.tokens));
        ASSERT_EQ(values(same.labels), values(batch.labels));
        ASSERT_EQ(served[i].documents, same.documents);
      }
    }
  }
}

TEST_F(TrainingDataTest, KindsOfSourcesAreKnownByTheirFiles) {
  const auto kind = [&](const std::string& data) { return load(data).sources.at(0).kind; };
  const auto in_quotes = [&](const std::string& name) { return "paths = [\"" + path(name) + "\"]\n"; };
  EXPECT_EQ(kind(in_quotes("text")), DataSource::Kind::bytes);
  EXPECT_EQ(kind(in_quotes("text/*.txt")), DataSource::Kind::bytes);
  for (const char* name : {"one", "one.bin", "one.idx", "*.idx", ""})
    EXPECT_EQ(kind(in_quotes(name)), DataSource::Kind::tokens) << name;
  EXPECT_EQ(kind(in_quotes("one.bin") + "kind = \"bytes\"\n"), DataSource::Kind::bytes);
  const TrainingData data(load(in_quotes("text") + "held_out_every = 10\n"));
  EXPECT_THAT(data.summary().at(0), HasSubstr("bytes in"));
  const TrainRecipe r = tokens();
  EXPECT_EQ(r.sources.size(), 2u);
  EXPECT_EQ(r.sources[0].weight, 2);
  // The resolved recipe that a run writes loads to the same recipe.
  write("again.toml", r.resolved);
  EXPECT_EQ(TrainRecipe::load(path("again.toml"), {}).resolved, r.resolved);
  EXPECT_EQ(TrainingData(r).fingerprint(),
            TrainingData(TrainRecipe::load(path("again.toml"), {})).fingerprint());
  EXPECT_NE(TrainingData(r).fingerprint(), TrainingData(tokens({"data.sources[0].weight=3"})).fingerprint());
  EXPECT_NE(TrainingData(r).fingerprint(), TrainingData(tokens({"data.seed=1"})).fingerprint());
  const std::string one = "data.sources=[{paths=[\"" + path("two") + "\"]}]";
  EXPECT_EQ(tokens({one}).sources.size(), 1u);
}

TEST_F(TrainingDataTest, DataThatCannotBeTrainedOnIsRefused) {
  const auto put = [&](const std::vector<int>& lengths, uint8_t learnt, int32_t token = 5) {
    MaskedTokenWriter writer(path("t"), TokenType::i32, true);
    for (const int length : lengths)
      writer.add(std::vector<int32_t>(length, token), std::vector<uint8_t>(length, learnt));
    writer.finish();
  };
  const auto error = [&](std::vector<std::string> overrides = {},
                         const std::string& more = "held_out_every = 0\n") {
    overrides.push_back("run.eval_every=0");
    return error_of([&] { TrainingData{load("paths = [\"" + path("t") + "\"]\n" + more, overrides)}; });
  };
  put({17}, 1);
  EXPECT_EQ(error(), "no error");
  put({10, 6}, 1);
  EXPECT_THAT(error(), HasSubstr("data.paths: expected at least 17 tokens to train on, for a sequence of "
                                 "data.seq_len = 16, found 16"));
  put({40}, 1);
  EXPECT_THAT(error({"data.seq_len=40"}), HasSubstr("found 40"));
  EXPECT_THAT(error({}, "held_out_every = 1\n"),
              HasSubstr("found 0; data.held_out_every = 1 holds out 40 tokens, 1 of 1 documents"));
  put({40}, 0);
  EXPECT_THAT(error(), HasSubstr("data.paths: expected tokens with a loss to train on, found none"));
  put(std::vector<int>(40, 1), 1);
  EXPECT_THAT(error(), HasSubstr("or documents of one token"));
  put({40}, 1, 300);
  EXPECT_THAT(error(), HasSubstr("t.bin: token 0: expected a number from 0 to 299, found 300"));
  put({40}, 1, -1);
  EXPECT_THAT(error(), HasSubstr("found -1"));

  // Held out: nothing that could be evaluated on is an error of eval_every, or said.
  put({40}, 1);
  const auto one = [&](const std::string& every) {
    return load("paths = [\"" + path("t") + "\"]\nheld_out_every = 1000000\n", {"run.eval_every=" + every});
  };
  EXPECT_THAT(error_of([&] { TrainingData{one("5")}; }),
              HasSubstr("expected something held out, found nothing"));
  EXPECT_THAT(TrainingData(one("0")).summary().at(0),
              HasSubstr("0 held out: none of so few documents (data.held_out_every = 1000000)"));
  // Documents 0 to 399 without a loss where they are held out (data/batches/token_corpus.h).
  MaskedTokenWriter writer(path("t"), TokenType::i32, true);
  for (int64_t d = 0; d < 400; ++d)
    writer.add(std::vector<int32_t>(2, 5),
               std::vector<uint8_t>(2, XXH3_64bits_withSeed(&d, sizeof d, 0) % 8 != 0));
  writer.finish();
  EXPECT_THAT(
      error_of([&] {
        TrainingData{load("paths = [\"" + path("t") + "\"]\nheld_out_every = 8\n", {"run.eval_every=5"})};
      }),
      HasSubstr("run.eval_every = 5: expected held-out tokens with a loss, found none"));
  write("text/.hidden", "x");
  EXPECT_THAT(TrainingData(load("paths = [\"" + path("text") + "\"]\n")).summary().at(1),
              HasSubstr("left out, hidden or no data: " + path("text/.hidden")));
  write("text/c.txt.gz", "\x1f\x8b");
  EXPECT_THAT(error_of([&] { TrainingData{load("paths = [\"" + path("text") + "\"]\n")}; }),
              HasSubstr("c.txt.gz: expected text as bytes, found a gzip file"));
}

TEST_F(TrainingDataTest, ErrorsNameKeyExpectedAndFound) {
  const std::string text = "paths = [\"" + path("text") + "\"]\n", one = "\"" + path("one") + "\"";
  const auto wrong = [&](const std::string& data, int64_t vocab = 300) {
    return error_of([&] { TrainingData{load(data, {}, vocab)}; });
  };
  EXPECT_EQ(wrong(text), "no error");
  EXPECT_THAT(wrong(""), HasSubstr("data.paths is missing"));
  EXPECT_THAT(wrong("paths = []"), HasSubstr("data.paths: expected at least one path, found none"));
  EXPECT_THAT(wrong("paths = [\"nowhere\"]"),
              HasSubstr("recipe.toml: data.paths: data path nowhere: expected"));
  EXPECT_THAT(wrong("paths = [" + one + ", \"" + path("text") + "\"]"),
              HasSubstr("expected all text or all"));
  EXPECT_THAT(wrong(text + "packing = \"tight\""),
              HasSubstr("data.packing = \"tight\": expected one of windows"));
  EXPECT_THAT(wrong(text + "[[data.sources]]\npaths = [" + one + "]"),
              HasSubstr("expected data.paths or data.sources, found both"));
  EXPECT_THAT(wrong("[[data.sources]]\nweight = 1"), HasSubstr("data.sources[0].paths is missing"));
  EXPECT_THAT(wrong("[[data.sources]]\npaths = [" + one + "]\nweigth = 1"),
              HasSubstr("unknown key data.sources[0].weigth; did you mean data.sources[0].weight?"));
  EXPECT_THAT(wrong("[[data.sources]]\npaths = [" + one + "]\nweight = 0"),
              HasSubstr("data.sources[0].weight = 0: expected 1e-09 to"));
  EXPECT_THAT(wrong("[[data.sources]]\npaths = [" + one + "]\n[[data.sources]]\n" + text),
              HasSubstr("data.sources[1]: expected token files as in data.sources[0], found text"));
  EXPECT_THAT(wrong(text, 200), HasSubstr("need a vocabulary of 256; found 200 in the student"));
  EXPECT_THAT(wrong(text + "held_out_every = 0"), HasSubstr("expected something held out, found nothing"));
}

}  // namespace
}  // namespace wuneng::training_data_test
