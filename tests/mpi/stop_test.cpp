// Where runs end that a signal stops: student and teacher agree, whoever is signalled and whenever, and no
// message is left over. In all layouts of the ranks that this test was started with (2 to 4 are of use).
#include "launch/train/stop.h"

#include <gtest/gtest.h>

#include "parallel/stream.h"

namespace wuneng {
namespace {

constexpr int64_t kFirst = 2, kEnd = 9;  // passes, as after a resume

struct Case {
  Layout student, teacher;
  int credits, micro_batches;
  int signalled;    // world rank
  int64_t in_pass;  // in which it is
};

// One rank of a run: the teacher sends a signal of two columns, which the last stage of the student takes.
class OneRank {
 public:
  OneRank(const Comm& world, const Case& c)
      : case_(c),
        mesh_(Mesh::make(world, c.student, c.teacher)),
        stream_(world.split(0, world.rank(), "stream")) {
    const TeacherSignal signal{"logits", 2, DType::f32, sharded_columns(c.teacher.pp - 1, c.teacher.tp, 2),
                               sharded_columns(c.student.pp - 1, c.student.tp, 2)};
    options_ = {.signals = {signal},
                .rows = 3,
                .micro_batches = c.micro_batches,
                .credits = c.credits,
                .first_pass = kFirst,
                .end_pass = kEnd};
    const int credits = stream_credits(options_.signals, c.credits, c.student.pp - 1);
    lead_ = teacher_lead(credits, c.teacher.dp, c.micro_batches);
  }

  // The pass before which this rank has ended.
  int64_t run() { return mesh_.role == Role::teacher ? teach() : learn(); }
  int64_t lead() const { return lead_; }

 private:
  StopAgreement agreement() {
    return {mesh_, lead_, kFirst, kEnd,
            [this] { return mesh_.world.rank() == case_.signalled && pass_ >= case_.in_pass ? 10 : 0; }};
  }

  int64_t teach() {
    StopAgreement stop = agreement();
    TeacherSender sender(stream_, mesh_, options_);
    for (pass_ = kFirst; pass_ < kEnd && !stop.teacher_stops(pass_); ++pass_)
      for (const StreamItem& item :
           items_served(stream_shape(mesh_, case_.micro_batches), pass_, mesh_.dp_rank))
        if (mesh_.last_stage())
          sender.send("logits", item, [](const SignalPart& part) { part.values.zero(); });
    sender.flush();
    stop.finish();
    return pass_;
  }

  int64_t learn() {
    StopAgreement stop = agreement();
    StreamedTeacher receiver(stream_, mesh_, options_);
    bool stopped = false;
    const auto meet = [&](int64_t next) {
      const double signal = stop.signalled(next);
      stopped = mesh_.role_comm.all_reduce(signal, Reduce::max, "whether to stop") > 0;
      stop.decide(next, stopped);
    };
    pass_ = kFirst;
    for (meet(pass_); pass_ < kEnd && !stopped; meet(++pass_))
      for (int m = 0; m < case_.micro_batches; ++m) receiver.take(pass_, m), receiver.release();
    const int64_t ended = pass_;
    if (ended < kEnd) {
      receiver.stop(ended, stop.teacher_end(ended));
      for (int64_t pass = ended; pass < stop.teacher_end(ended);) stop.signalled(++pass);
    }
    stop.finish();
    return ended;
  }

  Case case_;
  Mesh mesh_;
  Comm stream_;
  StreamOptions options_;
  int64_t lead_ = 1, pass_ = kFirst;
};

TEST(Stop, StudentAndTeacherAgreeAndLeaveNoMessage) {
  const Comm world = Comm::world();
  if (world.size() == 1) GTEST_SKIP() << "needs two ranks";
  const std::string name = rank_name();
  const auto layouts = [](int ranks) {
    std::vector<Layout> out;
    for (int dp = 1; dp <= ranks; ++dp)
      for (int pp = 1; dp * pp <= ranks; ++pp)
        if (ranks % (dp * pp) == 0) out.push_back({dp, pp, ranks / (dp * pp)});
    return out;
  };
  int tried = 0;
  for (int students = 1; students < world.size(); ++students)
    for (const Layout& student : layouts(students))
      for (const Layout& teacher : layouts(world.size() - students))
        for (const int credits : {1, 2, 5})
          for (const int micro_batches : {1, 3}) {
            const int signalled = tried % world.size();
            const int64_t in_pass = kFirst + tried % (kEnd - kFirst + 1);
            OneRank run(world, {student, teacher, credits, micro_batches, signalled, in_pass});
            const int64_t ended = run.run();
            const bool learns = world.rank() < students;
            const double first = world.all_reduce(learns ? double(ended) : 1e9, Reduce::min, "first end"),
                         last = world.all_reduce(learns ? double(ended) : -1, Reduce::max, "last end"),
                         taught = world.all_reduce(learns ? 1e9 : double(ended), Reduce::min, "first end"),
                         taught_last = world.all_reduce(learns ? -1 : double(ended), Reduce::max, "last end");
            EXPECT_EQ(first, last) << "case " << tried;
            EXPECT_EQ(taught, taught_last) << "case " << tried;
            EXPECT_EQ(taught, std::min<double>(first + double(run.lead()), kEnd)) << "case " << tried;
            // A student's own signal counts at the next boundary, a teacher's, who may be ahead, around it.
            if (signalled < students) {
              EXPECT_EQ(first, double(std::min(in_pass, kEnd))) << "case " << tried;
            } else {
              EXPECT_LE(first, double(in_pass) + 1) << "case " << tried;
              EXPECT_GE(first, std::min(double(in_pass) - double(run.lead()), double(kEnd)))
                  << "case " << tried;
            }
            ++tried;
          }
  EXPECT_GE(tried, 6);
  set_rank_name(name);
}

}  // namespace
}  // namespace wuneng
