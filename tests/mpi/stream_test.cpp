// The teacher's stream between the pipelines of both sides, on all ranks that this test was started with (2
// to 4 are of use): every student rank gets each element that it wants once, and it is the right one.
#include "parallel/stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "parallel/pipeline.h"
#include "tests/mpi/gpus.h"
#include "tests/mpi/pseudo.h"
#ifdef WUNENG_EMULATED
#include <nccl.h>
#endif

namespace wuneng {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr int64_t kRows = 5;

// What the teacher computes of a row and column of a micro-batch.
float value(const TeacherSignal& signal, const StreamItem& i, int64_t row, int64_t column) {
  const int64_t seed = std::hash<std::string>{}(signal.name) % 1000;
  return pseudo(((seed * 10 + i.pass) * 10 + i.micro_batch) * 10 + i.student_dp, row * signal.width + column);
}

struct Case {
  Layout student, teacher;
  std::vector<TeacherSignal> signals;
  int credits;
  Device device = {};
  bool by_nccl = false;  // where each rank has a GPU of its own
};

StreamOptions options_of(const Case& c) {
  return {.signals = c.signals,
          .rows = kRows,
          .micro_batches = 3,
          .credits = c.credits,
          .device = c.device,
          .first_pass = 1,  // as after a resume
          .end_pass = 4};
}

// One rank of the exchange. Activations of one column pass between stages on the host, so that stages wait
// for each other as those of a model do.
class Exchange {
 public:
  Exchange(const Comm& world, const Case& c)
      : mesh_(Mesh::make(world, c.student, c.teacher)),
        options_(options_of(c)),
        shape_(stream_shape(mesh_, options_.micro_batches)),
        stream_(world.split(0, world.rank(), "stream")) {
    if (!c.by_nccl) return;
#ifdef WUNENG_EMULATED
    const int before = emulator::communication_blocks();
#endif
    connect_stream(stream_, mesh_, options_);
#ifdef WUNENG_EMULATED
    int mine = 0;  // a frame has one multiprocessor
    for (const Comm::Channel& channel : stream_channels(mesh_, options_))
      mine += channel.from == world.rank() || channel.to == world.rank();
    EXPECT_EQ(emulator::communication_blocks() - before, mine);
#endif
    mesh_.tp.connect(c.device);
  }

  void run() { mesh_.role == Role::teacher ? teach() : learn(); }

 private:
  void run_pipeline(bool train, int micro_batches, const std::function<void(int)>& forward) {
    PipelineWork work;
    work.train = train;
    work.rows = [](int) { return int64_t{1}; };
    work.forward = [&](Tape&, int m, int /*chunk*/, const StageState&) {
      forward(m);
      const Shape shape = train && mesh_.last_stage() ? Shape{1} : Shape{1, 1};
      return StageState{Var(Tensor::zeros(shape), true), {}};
    };
    const PipelineSchedule& kind = train ? one_f_one_b : forward_only;
    Pipeline(mesh_.pp, 1).run(kind({mesh_.layout.pp}, mesh_.pp_rank, micro_batches), work);
  }

  void teach() {
    TeacherSender sender(stream_, mesh_, options_);
    for (int64_t pass = options_.first_pass; pass < options_.end_pass; ++pass) {
      const auto items = items_served(shape_, pass, mesh_.dp_rank);
      run_pipeline(false, static_cast<int>(items.size()), [&](int m) {
        sender.meet();
        for (const TeacherSignal& signal : options_.signals)
          if (signal.teacher.stage == mesh_.pp_rank)
            sender.send(signal.name, items[m],
                        [&](const SignalPart& part) { write(signal, items[m], part); });
      });
    }
    sender.flush();
  }

  void write(const TeacherSignal& signal, const StreamItem& item, const SignalPart& part) const {
    const Range& held = signal.teacher.columns[mesh_.tp_rank];
    EXPECT_TRUE(held.begin <= part.columns.begin && part.columns.end <= held.end);
    ASSERT_EQ(part.values.shape(), (Shape{part.rows.size(), part.columns.size()}));
    const Tensor values = Tensor::empty(part.values.shape());
    float* at = values.f32();
    for (int64_t row = part.rows.begin; row < part.rows.end; ++row)
      for (int64_t column = part.columns.begin; column < part.columns.end; ++column)
        *at++ = value(signal, item, row, column);
    part.values.copy_from(values.to(signal.dtype));
  }

  void learn() {
    StreamedTeacher receiver(stream_, mesh_, options_);
    std::optional<SignalPart> kept;  // of the micro-batch before, as by a later model chunk
    const TeacherSignal* kept_signal = nullptr;
    StreamItem kept_item{};
    for (int64_t pass = options_.first_pass; pass < options_.end_pass; ++pass)
      run_pipeline(pass != 2, options_.micro_batches, [&](int m) {
        if (pass == 2) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // all credits are used up
        const StreamItem item{pass, m, mesh_.dp_rank};
        const SignalParts& parts = receiver.take(pass, m);
        if (kept) expect(*kept_signal, kept_item, *kept);
        kept = {};
        for (const TeacherSignal& signal : options_.signals) {
          if (signal.student.stage != mesh_.pp_rank) {
            EXPECT_THROW(parts.of(signal.name), Error);
            continue;
          }
          expect_tiled(signal, parts.of(signal.name));
          if (signal.student.gathered && mesh_.layout.tp > 1) {
            EXPECT_EQ(parts.of(signal.name).size(), 1u);
          }
          for (const SignalPart& part : parts.of(signal.name)) {
            expect(signal, item, part);
            if (m % 2 == 0) kept = part, kept_signal = &signal, kept_item = item;
          }
        }
        receiver.release();
      });
  }

  void expect_tiled(const TeacherSignal& signal, const std::vector<SignalPart>& parts) const {
    const Range& wanted = signal.student.columns[mesh_.tp_rank];
    std::vector<int> copies(kRows * signal.width, 0);
    for (const SignalPart& p : parts)
      for (int64_t row = p.rows.begin; row < p.rows.end; ++row)
        for (int64_t column = p.columns.begin; column < p.columns.end; ++column)
          ++copies.at(row * signal.width + column);
    for (int64_t i = 0; i < kRows * signal.width; ++i)
      ASSERT_EQ(copies[i], wanted.begin <= i % signal.width && i % signal.width < wanted.end) << signal.name;
  }

  void expect(const TeacherSignal& signal, const StreamItem& item, const SignalPart& part) const {
    ASSERT_EQ(part.values.shape(), (Shape{part.rows.size(), part.columns.size()}));
    ASSERT_EQ(part.values.dtype(), signal.dtype);
    const Tensor found = part.values.to(Device{}).to(DType::f32);
    const float* at = found.f32();
    for (int64_t row = part.rows.begin; row < part.rows.end; ++row)
      for (int64_t column = part.columns.begin; column < part.columns.end; ++column, ++at) {
        const float wanted = value(signal, item, row, column);
        ASSERT_EQ(*at, signal.dtype == DType::f32 ? wanted : static_cast<float>(bf16(wanted)))
            << signal.name << " pass " << item.pass << " micro-batch " << item.micro_batch << " row " << row
            << " column " << column;
      }
  }

  Mesh mesh_;
  StreamOptions options_;
  StreamShape shape_;
  Comm stream_;
};

void exchange(const Case& c) {
  const Comm world = Comm::world();
  const std::string name = rank_name();
  Exchange(world, c).run();
  world.barrier("end of the exchange");
  set_rank_name(name);
}

// As `wuneng train` streams them: each side's last stage has its shard of its own vocabulary.
TeacherSignal logits(const Layout& student, const Layout& teacher, int64_t wanted, int64_t width,
                     DType dtype) {
  TeacherSignal s{"logits", width, dtype, sharded_columns(teacher.pp - 1, teacher.tp, width),
                  sharded_columns(student.pp - 1, student.tp, wanted)};
  for (Range& c : s.student.columns) c = {std::min(c.begin, width), std::min(c.end, width)};
  return s;
}

// Uneven, and each rank holds two columns of the next one's.
SignalLayout overlapping(int stage, int tp, int64_t width) {
  SignalLayout out = sharded_columns(stage, tp, width);
  for (Range& c : out.columns) c.end = std::min(c.end + 2, width);
  return out;
}

// From every teacher stage to every student stage, in all the ways in which a signal may lie on either side.
std::vector<TeacherSignal> signals_between_all_stages(const Layout& student, const Layout& teacher) {
  std::vector<TeacherSignal> out;
  for (int s = 0; s < teacher.pp; ++s)
    for (int q = 0; q < student.pp; ++q) {
      const auto add = [&](const char* how, DType dtype, const SignalLayout& from, const SignalLayout& to) {
        const int64_t width = from.columns.back().end;
        out.push_back({fmt::format("stage.{}.to.{}.{}", s, q, how), width, dtype, from, to});
      };
      add("replicated", DType::f32, replicated_columns(s, teacher.tp, 7),
          replicated_columns(q, student.tp, 7));
      add("gathered", DType::bf16, sharded_columns(s, teacher.tp, 11), replicated_columns(q, student.tp, 11));
      add("scattered", DType::bf16, replicated_columns(s, teacher.tp, 5), sharded_columns(q, student.tp, 4));
      add("rows_gathered", DType::f32, replicated_columns(s, teacher.tp, 7),
          gathered_columns(q, student.tp, 7));
      add("overlapping", DType::f32, overlapping(s, teacher.tp, 13), overlapping(q, student.tp, 13));
    }
  return out;
}

// All dp x pp x tp of this many ranks.
std::vector<Layout> layouts(int ranks) {
  std::vector<Layout> out;
  for (int dp = 1; dp <= ranks; ++dp)
    for (int pp = 1; dp * pp <= ranks; ++pp)
      if (ranks % (dp * pp) == 0) out.push_back({dp, pp, ranks / (dp * pp)});
  return out;
}

void exchange_in_all_layouts(Device device, bool by_nccl) {
  const int ranks = Comm::world().size();
  for (int students = 1; students < ranks; ++students)
    for (const Layout& student : layouts(students))
      for (const Layout& teacher : layouts(ranks - students)) {
        exchange({student, teacher, {logits(student, teacher, 31, 37, DType::f32)}, 1, device, by_nccl});
        std::vector<TeacherSignal> all = signals_between_all_stages(student, teacher);
        all.push_back(logits(student, teacher, 37, 31, DType::bf16));
        for (const int credits : {1, 3}) exchange({student, teacher, all, credits, device, by_nccl});
      }
}

TEST(Stream, EveryStudentRankGetsWhatItWantsOfEveryMicroBatch) {
  if (Comm::world().size() == 1) GTEST_SKIP() << "needs two ranks";
  exchange_in_all_layouts({}, false);
}

TEST(Stream, AndOnGpus) {
  if (Comm::world().size() == 1) GTEST_SKIP() << "needs two ranks";
  if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU here";
  exchange_in_all_layouts(of_this_rank({DeviceKind::cuda, 0}), true);
  if (gpus_of_their_own()) {
    EXPECT_EQ(pinned_bytes(), 0) << "some frames went through the host";
  }
  exchange_in_all_layouts(of_this_rank({DeviceKind::cuda, 0}), false);
  EXPECT_GT(pinned_bytes(), 0);
}

TEST(Stream, RanksWithoutASignalTakePart) {
  const int ranks = Comm::world().size();
  if (ranks == 1) GTEST_SKIP() << "needs two ranks";
  const Layout student{1, ranks / 2, 1}, teacher{1, 1, ranks - ranks / 2};
  exchange({student, teacher, {}, 1});
  // From the teacher's first rank to the student's first stage.
  TeacherSignal one{"one", 3, DType::f32, {0, std::vector<Range>(teacher.tp)}, {0, {{0, 3}}}};
  one.teacher.columns[0] = {0, 3};
  exchange({student, teacher, {one}, 1});
}

// A student and a teacher of one rank each, whose recipes may differ.
struct Pair {
  Mesh mesh = Mesh::make(Comm::world(), {1, 1, 1}, Layout{1, 1, 1});
  Comm stream = Comm::world().split(0, Comm::world().rank(), "stream");
  StreamOptions options;

  explicit Pair(std::vector<std::string> names) {
    for (const std::string& name : names)
      options.signals.push_back(
          {name, 4, DType::f32, replicated_columns(0, 1, 4), replicated_columns(0, 1, 4)});
    options.credits = 1, options.rows = 2, options.end_pass = 1;
  }
  bool teaches() const { return mesh.role == Role::teacher; }
  void refuses_the_first(const char* expected, const char* found) {
    StreamedTeacher receiver(stream, mesh, options);
    EXPECT_THAT([&] { receiver.take(0, 0); },
                ThrowsMessage<Error>(AllOf(HasSubstr(expected), HasSubstr(found))));
    stream.send(Tensor::zeros({1}, DType::i64), 1, 2, "credit to the teacher");  // so that it can end
  }
};

const TeacherSender::Write kZeros = [](const SignalPart& part) { part.values.zero(); };

TEST(Stream, AFrameOfAnotherMicroBatchIsAnErrorNotALoss) {
  if (Comm::world().size() != 2) GTEST_SKIP() << "needs two ranks";
  Pair pair({"logits"});
  if (pair.teaches()) {
    TeacherSender sender(pair.stream, pair.mesh, pair.options);
    sender.send("logits", {5, 0, 0}, kZeros);
    sender.flush();
  } else {
    pair.refuses_the_first("expected signal 0 'logits' pass 0", "found signal 0 'logits' pass 5");
  }
  Comm::world().barrier("end");
}

TEST(Stream, AndSoIsAFrameOfAnotherSignal) {
  if (Comm::world().size() != 2) GTEST_SKIP() << "needs two ranks";
  const bool teaches = Comm::world().rank() == 1;
  Pair pair({teaches ? "layer.3.mixer_output" : "layer.4.mixer_output"});
  if (pair.teaches()) {
    TeacherSender sender(pair.stream, pair.mesh, pair.options);
    sender.send("layer.3.mixer_output", {0, 0, 0}, kZeros);
    sender.flush();
  } else {
    pair.refuses_the_first("expected signal 0 'layer.4.mixer_output'", "found signal 0 of an unknown name");
  }
  Comm::world().barrier("end");
}

TEST(Stream, ASenderWaitsForACredit) {
  if (Comm::world().size() != 2) GTEST_SKIP() << "needs two ranks";
  constexpr int kGo = 8, kReleasing = 9;  // tags
  Pair pair({"logits"});
  pair.options.credits = 2, pair.options.end_pass = 3;
  const Tensor word = Tensor::zeros({1});
  if (pair.teaches()) {
    TeacherSender sender(pair.stream, pair.mesh, pair.options);
    Request releasing = pair.stream.irecv(Tensor::zeros({1}), 0, kReleasing, "student releases");
    sender.send("logits", {0, 0, 0}, kZeros);
    sender.send("logits", {1, 0, 0}, kZeros);  // the student uses none before it gets the next message
    pair.stream.send(word, 0, kGo, "both are sent");
    sender.send("logits", {2, 0, 0}, kZeros);
    EXPECT_TRUE(releasing.done());
    releasing.wait();
    sender.flush();
  } else {
    StreamedTeacher receiver(pair.stream, pair.mesh, pair.options);
    pair.stream.recv(word, 1, kGo, "both are sent");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    pair.stream.send(word, 1, kReleasing, "student releases");
    for (int pass = 0; pass < 3; ++pass) receiver.take(pass, 0), receiver.release();
  }
  Comm::world().barrier("end");
}

TEST(Stream, ATeacherThatSendsOutOfOrderIsRefused) {
  if (Comm::world().size() != 2) GTEST_SKIP() << "needs two ranks";
  Pair pair({"first", "second"});
  if (pair.teaches()) {
    TeacherSender sender(pair.stream, pair.mesh, pair.options);
    EXPECT_THAT([&] { sender.send("third", {0, 0, 0}, kZeros); }, ThrowsMessage<Error>(HasSubstr("'third'")));
    EXPECT_THAT(
        [&] {
          sender.send("second", {0, 0, 0}, kZeros);
        },
        ThrowsMessage<Error>(
            AllOf(HasSubstr("expected signal 'first' of pass 0"), HasSubstr("found 'second' of pass 0"))));
    sender.send("first", {0, 0, 0}, kZeros);
    EXPECT_THAT(
        [&] {
          sender.send("second", {1, 0, 0}, kZeros);
        },
        ThrowsMessage<Error>(AllOf(HasSubstr("of pass 0"), HasSubstr("'second' of pass 1"))));
    EXPECT_THAT([&] { sender.flush(); }, ThrowsMessage<Error>(HasSubstr("all its 2 signals")));
    sender.send("second", {0, 0, 0}, kZeros);
    sender.flush();
  } else {
    StreamedTeacher receiver(pair.stream, pair.mesh, pair.options);
    EXPECT_EQ(receiver.take(0, 0).of("second").size(), 1u);
    receiver.release();
  }
  Comm::world().barrier("end");
}

TEST(Stream, LayoutsThatAreNotTheMeshsAreRefused) {
  if (Comm::world().size() != 2) GTEST_SKIP() << "needs two ranks";
  Pair pair({"hidden"});
  SignalLayout& teacher = pair.options.signals[0].teacher;
  const auto refused = [&](const char* why) {
    EXPECT_THAT([&] { stream_channels(pair.mesh, pair.options); }, ThrowsMessage<Error>(HasSubstr(why)));
  };
  teacher.stage = 1;
  refused("'hidden': expected a teacher stage of 0..0, found 1");
  teacher = replicated_columns(0, 2, 4);
  refused("'hidden': expected the columns of 1 teacher tp ranks, found 2");
}

}  // namespace
}  // namespace wuneng
