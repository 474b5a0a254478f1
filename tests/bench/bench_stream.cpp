// A student's training step with the teacher's logits from another rank's stream against the same step with
// the logits already in memory: what streaming costs. The teacher's rank sends logits that it made before, as
// fast as credits allow, so that its own forward pass does not count.
//
// usage: WUNENG_THREADS=1 mpirun -n 2 bench_stream [VOCAB = 32768] [ROWS = 512] [STEPS = 12]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "model/decoder.h"
#include "model/objectives/vocabulary_loss.h"
#include "parallel/optimizer.h"
#include "parallel/stream.h"
#include "runtime/threads.h"

namespace wuneng {
namespace {

struct Sizes {
  int64_t vocab = 32768, rows = 512, steps = 12;
};

class PreloadedTeacher : public TeacherSource {
 public:
  explicit PreloadedTeacher(SignalPart logits) {
    parts_.expect("logits");
    parts_.add("logits", std::move(logits));
  }
  const SignalParts& take(int64_t, int) override { return parts_; }
  void release() override {}

 private:
  SignalParts parts_;
};

Tensor random_logits(const Sizes& s) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const Tensor logits = Tensor::empty({s.rows, s.vocab});
  std::generate_n(logits.f32(), logits.numel(), [&] { return 3 * normal(random); });
  return logits;
}

ModelConfig student_config(const Sizes& s) {
  ModelConfig c;
  c.hidden_size = 256, c.num_layers = 4, c.num_heads = 4, c.num_kv_heads = 2, c.head_dim = 64;
  c.intermediate_size = 768, c.vocab_size = s.vocab;
  return c;
}

class Student {
 public:
  explicit Student(const Sizes& s)
      : model_(student_config(s), Placement{}, DType::f32),
        batch_{Tensor::empty({s.rows}, DType::i32), Tensor::empty({s.rows}, DType::i32), {0, s.rows}} {
    model_.initialize_random(1);
    std::mt19937 random(2);
    for (int64_t t = 0; t < s.rows; ++t)
      for (const Tensor* x : {&batch_.tokens, &batch_.labels})
        x->data<int32_t>()[t] = static_cast<int32_t>(random() % s.vocab);
    const Parameters updated = model_.parameters();
    optimizer_.emplace(std::vector<ParameterPart>(updated.begin(), updated.end()), AdamwOptions{});
  }

  double step(TeacherSource& teacher, int64_t pass) {  // milliseconds
    const auto begin = std::chrono::steady_clock::now();
    Tape tape;
    const Tensor totals = Tensor::zeros({3}, DType::f64);
    const Var hidden = model_.forward(tape, batch_, {}).hidden;
    const Var loss = vocabulary_loss(tape, Comm(), hidden, model_.head(), batch_.labels,
                                     {.logits = teacher.take(pass, 0).of("logits")}, {},
                                     double(batch_.tokens.numel()), totals);
    teacher.release();
    loss.set_grad(Tensor::from<float>({1.0f}, {1}));
    tape.backward();
    optimizer_->step(1e-4);
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  }

 private:
  Decoder model_;
  MicroBatch batch_;
  std::optional<Optimizer> optimizer_;
};

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

void run(const Sizes& s, DType dtype) {
  const Mesh mesh = Mesh::make(Comm::world(), Layout{}, Layout{});
  StreamOptions o;
  const SignalLayout whole = replicated_columns(0, 1, s.vocab);
  o.signals = {{"logits", s.vocab, dtype, whole, whole}};
  o.rows = s.rows, o.end_pass = s.steps + 2;
  const Comm stream = mesh.world.split(0, mesh.world.rank(), "stream");
  const Tensor logits = random_logits(s);
  if (mesh.role == Role::teacher) {
    TeacherSender sender(stream, mesh, o);
    for (int64_t pass = 0; pass < o.end_pass; ++pass)
      sender.send("logits", {pass, 0, 0}, [&](const SignalPart& part) { part.values.copy_from(logits); });
    return sender.flush();
  }
  Student student(s);
  StreamedTeacher streamed(stream, mesh, o);
  PreloadedTeacher preloaded({{0, s.rows}, {0, s.vocab}, logits.to(dtype)});
  std::vector<double> with, without;
  for (int64_t pass = 0; pass < o.end_pass; ++pass) {
    const double a = student.step(preloaded, pass), b = student.step(streamed, pass);
    if (pass >= 2) without.push_back(a), with.push_back(b);
  }
  const double megabytes = double(s.rows * s.vocab * size_of(dtype)) / 1e6;
  fmt::print("{}: {:.0f} MB of logits a step; preloaded {:.2f} ms, streamed {:.2f} ms, ratio {:.3f}\n",
             to_string(dtype), megabytes, median(without), median(with), median(with) / median(without));
}

}  // namespace
}  // namespace wuneng

int main(int argc, char** argv) {
  using namespace wuneng;
  const Runtime runtime(&argc, &argv);
  Sizes s;
  int64_t* const sizes[] = {&s.vocab, &s.rows, &s.steps};
  for (int i = 1; i < argc && i <= 3; ++i) *sizes[i - 1] = std::atoll(argv[i]);
  for (const DType dtype : {DType::f32, DType::bf16}) run(s, dtype);
}
