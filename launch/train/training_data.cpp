#include "launch/train/training_data.h"

#include <algorithm>

#include "data/batches/corpus.h"
#include "data/batches/pair_corpus.h"
#include "data/tokenizer/text_codec.h"
#include "launch/train/checkpoint_meta.h"
#include "runtime/checkpoint/root.h"
#include "runtime/format.h"
#include "runtime/launcher.h"

namespace wuneng {
namespace {

constexpr int kPassesAhead = 2;

std::unique_ptr<Corpus> open_corpus(const TrainRecipe& r, const DataSource& s, CheckShare share) {
  const int64_t vocab =
      std::min(r.student.vocab_size, r.teacher ? r.teacher->vocab_size : r.student.vocab_size);
  // The split's seed stays 0: another order of training must not move the held-out part.
  const TokenCorpusOptions tokens{.paths = s.paths,
                                  .vocab_size = static_cast<int32_t>(vocab),
                                  .held_out_every = r.held_out_every,
                                  .share = share};
  if (s.kind == DataSource::Kind::pairs) return open_pair_corpus(tokens);
  if (s.kind == DataSource::Kind::tokens) return open_token_corpus(tokens);
  auto corpus =
      open_byte_corpus({.paths = s.paths, .extensions = s.extensions, .held_out_every = r.held_out_every});
  require(corpus->vocab_size() <= vocab,
          "text is taken as bytes, which need a vocabulary of {}; found {} in the {} (wuneng tokenize makes "
          "token files with the model's tokenizer)",
          corpus->vocab_size(), vocab, vocab == r.student.vocab_size ? "student" : "teacher");
  return corpus;
}

void check_training_part(const TrainRecipe& r, const DataSource& s, const Corpus& corpus) {
  const int64_t rows = corpus.size(Split::train), held_out = corpus.documents(Split::held_out);
  if (s.kind == DataSource::Kind::pairs) {
    require(rows > 0, "expected a pair to train on, found none; data.held_out_every = {} holds out {}",
            r.held_out_every, held_out / 2);
    return;  // open_pair_corpus has looked for labels
  }
  const std::string rest =
      held_out == 0
          ? ""
          : fmt::format("; data.held_out_every = {} holds out {} tokens, {} of {} {}", r.held_out_every,
                        corpus.size(Split::held_out), held_out, held_out + corpus.documents(Split::train),
                        s.kind == DataSource::Kind::tokens ? "documents" : "parts of files");
  // The last token of all is a label only.
  require(rows > r.seq_len,
          "expected at least {} tokens to train on, for a sequence of data.seq_len = {}, found {}{}",
          r.seq_len + 1, r.seq_len, rows, rest);
  require(
      has_labels(corpus, Split::train),
      "expected tokens with a loss to train on, found none (loss masks of 0, or documents of one token){}",
      rest);
}

std::unique_ptr<Corpus> open_source(const TrainRecipe& r, const DataSource& s, CheckShare share) {
  try {
    std::unique_ptr<Corpus> corpus = open_corpus(r, s, share);
    check_training_part(r, s, *corpus);
    return corpus;
  } catch (const Error& e) {
    fail("{}: {}.paths: {}", r.path, s.key, e.what());
  }
}

}  // namespace

TrainingData::TrainingData(const TrainRecipe& r, CheckShare share)
    : sources_(r.sources), seq_len_(r.seq_len), held_out_every_(r.held_out_every) {
  std::vector<WeightedCorpus> weighted;
  for (const DataSource& s : sources_) {
    corpora_.push_back(open_source(r, s, share));
    for (size_t i = 0; i + 1 < corpora_.size(); ++i) {
      const std::string expected = corpora_[i]->tokenizer(), found = corpora_.back()->tokenizer();
      require(expected == found || expected.empty() || found.empty(),
              "{}: {}.paths: expected tokens of tokenizer {} as in {}, found {}", r.path, s.key, expected,
              sources_[i].key, found);
    }
    weighted.push_back({corpora_.back().get(), s.weight});
  }
  require_tokenizer_of_student(r);
  batches_ = std::make_unique<BatchSource>(
      weighted,
      BatchOptions{
          .seq_len = r.seq_len, .micro_batch = r.micro_batch, .seed = r.data_seed, .packing = r.packing});
  if (!r.drop_long_pairs) require_room(r);
  order_ = {.micro_batch = r.micro_batch, .accumulation = r.accumulation, .dp = r.layout.dp};
  held_out_ = std::min(r.eval_batches, batches_->held_out_count());
  require(r.eval_every == 0 || held_out_ > 0,
          "{}: run.eval_every = {}: expected something held out, found nothing (data.held_out_every = {}, "
          "run.eval_batches = {})",
          r.path, r.eval_every, r.held_out_every, r.eval_batches);
  require(r.eval_every == 0 || std::any_of(corpora_.begin(), corpora_.end(),
                                           [](const auto& c) { return has_labels(*c, Split::held_out); }),
          "{}: run.eval_every = {}: expected held-out tokens with a loss, found none", r.path, r.eval_every);
  const int64_t per_pass = r.accumulation * r.layout.dp;
  passes_ = plan_passes(r.steps(), r.eval_every, (held_out_ + per_pass - 1) / per_pass);
}

std::string TrainingData::tokenizer() const {
  for (const auto& corpus : corpora_)
    if (std::string name = corpus->tokenizer(); !name.empty()) return name;
  return "";
}

// A stage goes on with the tokens of the stage before, or of the directory that the student is made from.
void TrainingData::require_tokenizer_of_student(const TrainRecipe& r) const {
  const std::string found = tokenizer();
  if (found.empty() || launcher::rank() > 0) return;  // one rank loads the tokenizer
  std::string expected, of = r.init_from;
  if (!r.init_from.empty() && has_checkpoint(r.init_from))
    expected = CheckpointMeta::read(CheckpointReader(r.init_from)).data_tokenizer;
  if (expected.empty() && TextCodec::has_tokenizer(r.tokenizer_from)) {
    expected = TextCodec::load(r.tokenizer_from).name();
    of = r.tokenizer_from;
  }
  require(expected.empty() || expected == found,
          "{}: {}.paths: expected tokens of the student's tokenizer, {} of {}, found tokens of tokenizer {}",
          r.path, sources_[0].key, expected, of, found);
}

void TrainingData::require_room(const TrainRecipe& r) const {
  int64_t too_long = 0, longest = 0;
  for (size_t i = 0; i < sources_.size(); ++i)
    for (const Split split : {Split::train, Split::held_out}) {
      too_long += batches_->plan(split, i).too_long();
      longest = std::max(longest, batches_->plan(split, i).longest());
    }
  require(too_long == 0,
          "{}: data.seq_len = {}: {} pairs have more tokens, chosen and rejected together, the longest {}: "
          "expected room for all of them; data.long_pairs = \"drop\" leaves such pairs out",
          r.path, seq_len_, thousands(too_long), longest);
}

void TrainingData::resume_at(const DataCursor& cursor) {
  order_.first_step = cursor.step;
  order_.first_sequence = cursor.sequence;
}

int64_t TrainingData::first_sequence(const Pass& pass, int m, int dp_rank) const {
  if (pass.trains) return order_.sequence(pass.step, m, dp_rank);
  // What a last pass has room for beyond the evaluation's end is padding: the same part is held out in every
  // layout.
  const int64_t index = (pass.part * order_.accumulation + m) * order_.dp + dp_rank;
  return (index < held_out_ ? index : batches_->held_out_count()) * order_.micro_batch;
}

MicroBatch TrainingData::batch(const Pass& pass, int m, int dp_rank) const {
  const int64_t first = first_sequence(pass, m, dp_rank);
  return pass.trains ? batches_->at(first) : batches_->held_out(first / order_.micro_batch);
}

std::string TrainingData::fingerprint() const { return fmt::format("{:016x}", batches_->fingerprint()); }

std::vector<std::string> TrainingData::summary() const {
  std::vector<std::string> lines;
  for (size_t i = 0; i < sources_.size(); ++i) {
    const Corpus& corpus = *corpora_[i];
    const bool pairs = sources_[i].kind == DataSource::Kind::pairs;
    lines.push_back(fmt::format(
        "data: {}{}: {} {} in {} {}, {} sequences of {} (packing efficiency {:.2f}%), {} held out{}",
        sources_[i].paths[0], sources_[i].paths.size() > 1 ? ", ..." : "",
        thousands(corpus.size(Split::train)),
        sources_[i].kind == DataSource::Kind::bytes ? "bytes" : "tokens",
        thousands(corpus.documents(Split::train) / (pairs ? 2 : 1)), pairs ? "pairs" : "documents",
        thousands(batches_->epoch_sequences(i)), seq_len_, 100 * batches_->packing_efficiency(i),
        thousands(corpus.size(Split::held_out)),
        held_out_every_ > 0 && corpus.size(Split::held_out) == 0
            ? fmt::format(": none of so few {} (data.held_out_every = {})", pairs ? "pairs" : "documents",
                          held_out_every_)
            : ""));
    const int64_t dropped =
        batches_->plan(Split::train, i).too_long() + batches_->plan(Split::held_out, i).too_long();
    if (dropped > 0)
      lines.push_back(fmt::format("data: left out {} pairs of more than {} tokens (data.long_pairs)",
                                  thousands(dropped), seq_len_));
    if (const std::string left_out = corpus.left_out(); !left_out.empty())
      lines.push_back("data: " + left_out);
  }
  return lines;
}

PassReader::PassReader(const TrainingData& data, int64_t first_pass, int threads, Items items)
    : ahead_(
          [&data, items = std::move(items)](int64_t pass) {
            std::vector<MicroBatch> out;
            for (const StreamItem& i : items(pass))
              out.push_back(data.batch(data.passes()[pass], i.micro_batch, i.student_dp));
            return out;
          },
          first_pass, static_cast<int64_t>(data.passes().size()), kPassesAhead, threads) {}

}  // namespace wuneng
