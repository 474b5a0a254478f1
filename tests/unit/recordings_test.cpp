// Chunk steps as CUDA graphs in training, against the same launched one by one: equal to the bit.
#include "model/recordings.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <optional>

#include "model/decoder.h"
#include "parallel/gradients.h"
#include "tests/small_config.h"

namespace wuneng::recordings_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const Device kGpu{DeviceKind::cuda, 0};
constexpr int64_t kVocab = 30, kChunk = 8;
using Documents = std::vector<int64_t>;
using Numbers = std::vector<std::vector<char>>;

std::vector<char> bits(const Tensor& t) {
  const Tensor host = t.to(Device{});
  const char* const at = static_cast<const char*>(host.raw());
  return {at, at + host.bytes()};
}

struct Case {
  const char *name, *preset;
  std::map<std::string, OptionValue> options = {};
  DType activations = DType::f32;
  Recompute recompute = Recompute::none;
};

// A student of two layers with gradients of its own, on the GPU.
class Student {
 public:
  Student(const Case& which, bool record)
      : model_(config(which), Placement{.device = kGpu, .activations = which.activations, .record = record},
               which.activations, which.recompute),
        gradients_(prepared(), {}) {}

  // Records the forward pass of a micro-batch, and sets its output's gradient.
  Tape forward(const Documents& documents) {
    const int64_t T = documents.back();
    const Tensor tokens = Tensor::empty({T}, DType::i32), dy = Tensor::empty({T, 32});
    for (int64_t t = 0; t < T; ++t) tokens.data<int32_t>()[t] = static_cast<int32_t>(7 * t + count_) % kVocab;
    for (int64_t i = 0; i < dy.numel(); ++i) dy.f32()[i] = std::sin(0.1f * float(i + 3 * count_));
    ++count_;
    Tape tape(model_.stream());
    const Var hidden = model_.forward(tape, {tokens, Tensor(), documents}, {}).hidden;
    numbers_.push_back(bits(hidden.value()));
    hidden.set_grad(dy.to(hidden.value().dtype()).to(kGpu));
    return tape;
  }
  // What all passes have made so far: hidden states, and the sums of gradients.
  Numbers numbers() {
    Numbers out = numbers_;
    for (const Parameter* p : model_.parameters()) out.push_back(bits(p->var.grad()));
    return out;
  }
  std::vector<std::string> notes() const { return model_.take_notes(); }

 private:
  static ModelConfig config(const Case& which) {
    ModelConfig c = small_config("wuneng", kVocab);
    c.set_mixer("wuneng", which.preset);
    c.options["wuneng"]["chunk"] = kChunk;
    for (const auto& [name, value] : which.options) c.options["wuneng"][name] = value;
    c.check("test");
    return c;
  }
  // Its parameters, none of which is zero: behind zeros gradients are zero.
  Parameters prepared() {
    model_.initialize_random(1);
    Parameters all = model_.parameters();
    for (const Parameter* p : all) {
      const Tensor values = p->var.value().to(Device{}).to(DType::f32).clone();
      for (int64_t i = 0; i < values.numel(); ++i) values.f32()[i] += 0.1f * std::sin(float(i + 1));
      p->var.value().copy_from(values.to(p->var.value().dtype()));
    }
    return all;
  }

  Decoder model_;
  GradientSums gradients_;
  Numbers numbers_;
  int count_ = 0;
};

class RecordedChunkSteps : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU here";
  }
};

// One document, and three of which one has one chunk step alone.
const Documents kOneDocument = {0, 4 * kChunk - 4},
                kThreeDocuments = {0, 2 * kChunk - 4, 2 * kChunk - 1, 5 * kChunk - 5};

TEST_P(RecordedChunkSteps, AreEqualToTheBit) {
  Student direct(GetParam(), false), recorded(GetParam(), true);
  const Documents a = kOneDocument, b = kThreeDocuments;
  for (Student* student : {&direct, &recorded})
    for (const Documents& documents : {a, b, a, a, b, a, b, b}) student->forward(documents).backward();
  EXPECT_TRUE(recorded.numbers() == direct.numbers());
  EXPECT_THAT(recorded.notes(), ElementsAre(HasSubstr("launched one by one"), HasSubstr("of 1 document of"),
                                            HasSubstr("of 3 documents of 3 to")));
  EXPECT_THAT(direct.notes(), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Models, RecordedChunkSteps,
                         testing::Values(Case{"f32", "full"},
                                         Case{"recomputed", "full", {}, DType::f32, Recompute::layer},
                                         Case{"literal", "literal"},
                                         Case{"bf16_with_other_options",
                                              "full",
                                              {{"state_heads", int64_t{2}},
                                               {"learn_initial_state", true},
                                               {"state_read", std::string("quadratic")},
                                               {"cross_head", std::string("gated")}},
                                              DType::bf16}),
                         [](const auto& info) { return std::string(info.param.name); });

// As in a pipeline.
TEST_F(RecordedChunkSteps, OfMicroBatchesUnderWayHaveMemoryEach) {
  Student direct({"", "full"}, false), recorded({"", "full"}, true);
  for (Student* student : {&recorded, &direct})
    for (int i = 0; i < 2; ++i) {
      Tape first = student->forward(kOneDocument), second = student->forward(kOneDocument);
      first.backward();
      Tape third = student->forward(kOneDocument);
      second.backward();
      third.backward();
    }
  EXPECT_TRUE(recorded.numbers() == direct.numbers());
  EXPECT_THAT(recorded.notes(), ElementsAre(HasSubstr("run as CUDA graphs")));
}

// The weight gradients of a layer are formed before the next layer's take their memory: in another order than
// those of middle heads elsewhere in the layer.
TEST_F(RecordedChunkSteps, InHalvesGiveAlmostTheSameGradients) {
  constexpr size_t kPasses = 4;
  Student direct({"", "full"}, false), recorded({"", "full"}, true);
  for (Student* student : {&recorded, &direct})
    for (size_t i = 0; i < kPasses; ++i) {
      Tape tape = student->forward(kOneDocument);
      tape.backward_inputs();
      tape.backward_weights();
    }
  const Numbers a = recorded.numbers(), b = direct.numbers();
  for (size_t n = 0; n < a.size(); ++n) {
    EXPECT_TRUE(n >= kPasses || a[n] == b[n]) << n;
    const auto *x = reinterpret_cast<const float*>(a[n].data()),
               *y = reinterpret_cast<const float*>(b[n].data());
    double error = 0, norm = 0;
    for (size_t i = 0; i < a[n].size() / sizeof(float); ++i) {
      error += (x[i] - y[i]) * (x[i] - y[i]);
      norm += x[i] * x[i];
    }
    EXPECT_LE(error, 1e-12 * norm) << n;
  }
}

// 2 x w and x w, of a weight of one element.
std::vector<Var> product(Tape& tape, const Var& x, ops::P w) {
  const Var y = ops::scale_heads(tape, x, w);
  return {ops::add(tape, y, ops::scale_heads(tape, x, w)), ops::scale_heads(tape, x, w)};
}

class RecordedOperator : public testing::Test {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "no GPU here";
    weight.var = Var(Tensor::from<float>({2}, {1}).to(kGpu), true);
    weight.var.grad_buffer();
    memory = std::make_shared<RecordingMemory>(kGpu);
    recordings.emplace(memory, "a test");
  }
  Var input(float x) const { return Var(Tensor::from<float>({x}, {1, 1, 1}).to(kGpu), true); }
  static float number(const Tensor& t) { return t.to(Device{}).f32()[0]; }

  Parameter weight;
  std::shared_ptr<RecordingMemory> memory;
  std::optional<Recordings> recordings;
};

TEST_F(RecordedOperator, TakesOutputsWithoutAGradient) {
  for (int i = 1; i <= 4; ++i) {
    Tape tape(compute_stream(kGpu));
    const Var x = input(float(i));
    const std::vector<Var> out =
        recordings->run(tape, this, {x}, {&weight},
                        [&](Tape& on, const std::vector<Var>& in) { return product(on, in[0], &weight); });
    EXPECT_EQ(number(out[0].value()), 4.0f * float(i));
    EXPECT_EQ(number(out[1].value()), 2.0f * float(i));
    out[i % 2].set_grad(Tensor::from<float>({1}, {1, 1, 1}).to(kGpu));
    tape.backward();
    EXPECT_EQ(number(x.grad()), i % 2 ? 2 : 4);
  }
  EXPECT_EQ(number(weight.var.grad()), 1 + 2 * 2 + 3 + 2 * 4);
  EXPECT_THAT(memory->notes, ElementsAre("chunk steps of a test run as CUDA graphs"));
}

TEST_F(RecordedOperator, RunsLaunchByLaunchWhereItCannotBeRecorded) {
  int calls = 0;
  for (int i = 1; i <= 4; ++i) {
    Tape tape(compute_stream(kGpu));
    const Var x = input(float(i));
    const std::vector<Var> out =
        recordings->run(tape, this, {x}, {&weight}, [&](Tape& on, const std::vector<Var>& in) {
          ++calls;
          number(in[0].value());  // a copy to the host
          return product(on, in[0], &weight);
        });
    EXPECT_EQ(number(out[1].value()), 2.0f * float(i));
    out[1].set_grad(Tensor::from<float>({1}, {1, 1, 1}).to(kGpu));
    tape.backward();
    EXPECT_EQ(number(x.grad()), 2);
  }
  EXPECT_EQ(calls, 5);  // and one that was to be recorded
  EXPECT_THAT(memory->notes, ElementsAre(HasSubstr("cannot be recorded")));
}

// A gradient that moves, as a recording cannot: the next one has its new address.
TEST_F(RecordedOperator, IsRecordedAgainWhereAGradientHasMoved) {
  float sum = 0;
  for (int i = 1; i <= 6; ++i) {
    if (i == 4) {
      weight.var.set_grad(weight.var.grad().clone());
    }
    Tape tape(compute_stream(kGpu));
    const std::vector<Var> out =
        recordings->run(tape, this, {input(float(i))}, {&weight},
                        [&](Tape& on, const std::vector<Var>& in) { return product(on, in[0], &weight); });
    out[1].set_grad(Tensor::from<float>({1}, {1, 1, 1}).to(kGpu));
    tape.backward();
    EXPECT_EQ(number(weight.var.grad()), sum += float(i));
  }
}

}  // namespace
}  // namespace wuneng::recordings_test
