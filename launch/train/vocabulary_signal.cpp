#include "launch/train/vocabulary_signal.h"

#include <algorithm>

#include "launch/train/teacher_placement.h"

namespace wuneng {
namespace {

// What a rank multiplies and adds while it receives a byte. GPU: 400 TFLOP/s of an H100's tensor cores
// against the 25 GB/s of its share of a node's network. CPU: 240 GFLOP/s of a core with AVX-512 against the
// 10 GB/s of a copy through memory.
double flops_a_byte(DeviceKind kind) { return kind == DeviceKind::cuda ? 16000 : 24; }

}  // namespace

VocabularySignal choose_vocabulary_signal(const TrainRecipe& r, const std::string& asked) {
  if (asked != "auto") return {asked, ""};
  if (!r.cache.empty()) return {"hidden", "teacher.signal = \"auto\": logits are not cached (teacher.cache)"};
  if (!r.teacher_streams)
    return {"hidden", "teacher.signal = \"auto\": nothing is sent, and logits are formed chunk by chunk"};
  const double hidden = signal_bytes_a_token(r, {"hidden"}), logits = signal_bytes_a_token(r, {"logits"}),
               flops = 2.0 * double(r.teacher->hidden_size) *
                       double(std::min(r.teacher->vocab_size, r.student.vocab_size)),
               balance = flops_a_byte(r.device_kind());
  const bool pays = flops <= balance * (logits - hidden);
  return {pays ? "hidden" : "logits",
          fmt::format("teacher.signal = \"auto\": {:.0f} bytes a token of the hidden state against {:.0f} of "
                      "logits; {:.3g} MFLOP a token of the product with its output matrix are {} than {:.0f} "
                      "a byte saved",
                      hidden, logits, flops / 1e6, pays ? "no more" : "more", balance)};
}

std::string describe_signal(const TrainRecipe& r, const VocabularySignal& signal) {
  if (signal.name == "top_k")
    return fmt::format(
        "teacher's signal: its {} most probable tokens and the mass of all others; the loss is biased: a "
        "lower bound of the divergence, which leaves the student's proportions among the others as they are",
        r.top_k);
  std::string how;
  if ((r.teacher_streams || r.cached) && r.stream_dtype && *r.stream_dtype != DType::f32)
    how = fmt::format(", rounded to {}", *r.stream_dtype == DType::i8 ? "8 bits with a scale for each row"
                                                                      : to_string(*r.stream_dtype));
  if (!signal.why.empty()) how += fmt::format(" ({})", signal.why);
  return fmt::format("teacher's signal: {}{}", signal.name == "hidden" ? "its final hidden state" : "logits",
                     how);
}

}  // namespace wuneng
