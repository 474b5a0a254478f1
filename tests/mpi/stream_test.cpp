#include "parallel/stream.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "tests/mpi/gpus.h"

namespace wuneng {
namespace {

constexpr int64_t kRows = 5, kRounds = 6;

float logit(const StreamItem& i, int64_t row, int64_t column) {
  return static_cast<float>(((i.round * 7 + i.micro_batch) * 5 + i.student_dp) * 1000 + row * 100) +
         0.25f * static_cast<float>(column);
}

struct Case {
  Layout student, teacher;
  int64_t student_vocab, teacher_vocab;
  int credits;
  DType dtype;
  Device device = {};
  bool by_nccl = false;  // where each rank has a GPU of its own
};

void exchange(const Comm& world, const Case& c) {
  const std::string name = rank_name();
  const Mesh mesh = Mesh::make(world, c.student, c.teacher);
  StreamOptions o;
  o.shape = {c.student.dp, c.student.tp, c.teacher.dp, c.teacher.tp, c.student_vocab, c.teacher_vocab, 2};
  o.credits = c.credits;
  o.dtype = c.dtype;
  o.rows = kRows;
  o.first_round = 1;  // as after a resume
  o.end_round = kRounds;
  o.device = c.device;
  const Comm stream = world.split(0, world.rank(), "stream");
  if (c.by_nccl) stream.connect_messages(c.device, stream_ways(mesh, o.shape));
  if (mesh.role == Role::teacher) {
    TeacherSender sender(stream, mesh, o);
    for (int64_t round = o.first_round; round < o.end_round; ++round)
      for (const StreamItem& item : items_served(o.shape, round, mesh.dp_rank))
        sender.send(item, [&](Range columns, const Tensor& frame) {
          ASSERT_EQ(frame.shape(), (Shape{kRows, columns.size()}));
          const Tensor logits = Tensor::empty(frame.shape());
          for (int64_t t = 0; t < kRows; ++t)
            for (int64_t v = 0; v < columns.size(); ++v)
              logits.f32()[t * columns.size() + v] = logit(item, t, columns.begin + v);
          frame.copy_from(logits.to(c.dtype));
        });
    sender.flush();
  } else {
    StreamedTeacher receiver(stream, mesh, o);
    const Range held = shard_range(c.student_vocab, c.student.tp, mesh.tp_rank);
    for (int64_t round = o.first_round; round < o.end_round; ++round)
      for (int m = 0; m < o.shape.micro_batches; ++m) {
        if (round == 2)
          std::this_thread::sleep_for(std::chrono::milliseconds(5));  // the teacher runs into its credits
        std::vector<TeacherSlice> slices;
        ASSERT_NO_THROW(slices = receiver.take(round, m));
        int64_t at = std::min(held.begin, o.shape.shared_vocab());
        for (const TeacherSlice& s : slices) {
          EXPECT_EQ(s.columns.begin, at);
          at = s.columns.end;
          const Tensor logits = s.logits.to(Device{});
          for (int64_t t = 0; t < kRows; ++t)
            for (int64_t v = 0; v < s.columns.size(); ++v) {
              const float wanted = logit({round, m, mesh.dp_rank}, t, s.columns.begin + v);
              const int64_t i = t * s.columns.size() + v;
              if (c.dtype == DType::f32)
                ASSERT_EQ(logits.f32()[i], wanted);
              else
                ASSERT_EQ(static_cast<float>(logits.data<bf16>()[i]), static_cast<float>(bf16(wanted)));
            }
        }
        EXPECT_EQ(at, std::min(held.end, o.shape.shared_vocab()));
        receiver.release();
      }
  }
  world.barrier("end of the exchange");
  set_rank_name(name);
}

void exchange_in_all_layouts(Device device, bool by_nccl) {
  const Comm world = Comm::world();
  for (int students = 1; students < world.size(); ++students)
    for (const bool student_dp : {false, true})
      for (const bool teacher_dp : {false, true})
        for (const auto& [vs, vt] : {std::pair<int64_t, int64_t>{31, 37}, {37, 31}})
          for (const int credits : {1, 3}) {
            const int teachers = world.size() - students;
            const Case c{student_dp ? Layout{students, 1, 1} : Layout{1, 1, students},
                         teacher_dp ? Layout{teachers, 1, 1} : Layout{1, 1, teachers},
                         vs,
                         vt,
                         credits,
                         credits == 1 ? DType::f32 : DType::bf16,
                         device,
                         by_nccl};
            exchange(world, c);
          }
}

TEST(Stream, EveryStudentRankGetsItsColumnsOfEveryMicroBatch) {
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

TEST(Stream, AFrameOfAnotherMicroBatchIsAnErrorNotALoss) {
  const Comm world = Comm::world();
  if (world.size() != 2) GTEST_SKIP() << "needs two ranks";
  const Mesh mesh = Mesh::make(world, {1, 1, 1}, Layout{1, 1, 1});
  StreamOptions o;
  o.shape = {1, 1, 1, 1, 4, 4, 1};
  o.credits = 1;
  o.rows = 2;
  o.end_round = 1;
  const Comm stream = world.split(0, world.rank(), "stream");
  if (mesh.role == Role::teacher) {
    TeacherSender sender(stream, mesh, o);
    sender.send({5, 0, 0}, [](Range, const Tensor& frame) { frame.zero(); });
    sender.flush();
  } else {
    StreamedTeacher receiver(stream, mesh, o);
    try {
      receiver.take(0, 0);
      ADD_FAILURE() << "accepted";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("expected round 0"), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find("found round 5"), std::string::npos) << e.what();
    }
    stream.send(Tensor::zeros({1}, DType::i64), 1, 2,
                "credit to the teacher");  // so that the teacher can end
  }
  world.barrier("end");
}

}  // namespace
}  // namespace wuneng
