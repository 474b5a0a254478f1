#include "launch/train/stop.h"

namespace wuneng {
namespace {

constexpr int kSignalled = 1, kDecision = 2;  // message tags, of the world's communicator

}  // namespace

StopAgreement::StopAgreement(const Mesh& mesh, int64_t lead, int64_t first, int64_t end, Requested requested)
    : world_(mesh.world), lead_(lead), first_(first), end_(end), requested_(std::move(requested)) {
  if (!mesh.teacher) return;
  const int students = mesh.student.size(), rank = world_.rank();
  if (rank >= students)
    partners_ = {(rank - students) % students};
  else
    for (int r = students + rank; r < world_.size(); r += students) partners_.push_back(r);
}

bool StopAgreement::teacher_stops(int64_t pass) {
  const int student = partners_.at(0);
  if (pass - lead_ >= first_ && receive(student, kDecision, "whether to stop, from the student") != 0)
    return true;
  send(requested_(), student, kSignalled, "whether a teacher's rank was signalled");
  return false;
}

int StopAgreement::signalled(int64_t pass) {
  int64_t signal = requested_();
  if (pass > first_)
    for (const int teacher : partners_)
      signal = std::max(signal, receive(teacher, kSignalled, "whether a teacher's rank was signalled"));
  return static_cast<int>(signal);
}

void StopAgreement::decide(int64_t pass, bool stop) {
  if (pass + lead_ >= end_) return;  // the teacher ends there anyway
  for (const int teacher : partners_) send(stop, teacher, kDecision, "whether to stop, from the student");
}

void StopAgreement::finish() {
  for (Request& r : sends_) r.wait();
  sends_.clear();
}

void StopAgreement::send(int64_t value, int peer, int tag, const char* what) {
  while (!sends_.empty() && sends_.front().done()) sends_.pop_front();
  sends_.push_back(world_.isend(Tensor::from<int64_t>({value}, {1}), peer, tag, what));
}

int64_t StopAgreement::receive(int peer, int tag, const char* what) {
  const Tensor value = Tensor::empty({1}, DType::i64);
  world_.recv(value, peer, tag, what);
  return value.data<int64_t>()[0];
}

}  // namespace wuneng
