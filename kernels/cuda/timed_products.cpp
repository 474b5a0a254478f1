#include "kernels/timed_products.h"

#include <array>
#include <bit>
#include <charconv>
#include <cstring>
#include <optional>

#include "kernels/cuda/common/blas_call.h"
#include "runtime/cuda/check.h"
#include "runtime/cuda/waiting.h"
#include "runtime/device_memory.h"

namespace wuneng::kernels::cuda {
namespace {

constexpr int kCandidates = 16, kRuns = 5;
constexpr float kWorthIt = 0.97f;  // of the first one's time

using KeyNumbers = std::array<int64_t, sizeof(ProductKey) / sizeof(int64_t)>;

// A product's text begins with what an algorithm may depend on besides the product, and ends with its key.
std::string begin_of_texts(const Stream& stream) {
  return fmt::format("{} | {} | ", device_name(stream.device), cublasLtGetVersion());
}
std::string text_of(const ProductKey& key) {
  return fmt::format("{}", fmt::join(std::bit_cast<KeyNumbers>(key), " "));
}

std::string text_of(const cublasLtMatmulAlgo_t& algorithm) {
  std::string out;
  for (const char* at = reinterpret_cast<const char*>(&algorithm); out.size() < 2 * sizeof algorithm; ++at)
    out += fmt::format("{:02x}", static_cast<unsigned char>(*at));
  return out;
}

cublasLtMatmulAlgo_t algorithm_of(const std::string& text) {
  cublasLtMatmulAlgo_t algorithm;
  require(text.size() == 2 * sizeof algorithm,
          "algorithm of cublasLt: expected {} hexadecimal digits, found {}", 2 * sizeof algorithm,
          text.size());
  for (size_t i = 0; i < sizeof algorithm; ++i) {
    unsigned char byte = 0;
    std::from_chars(text.data() + 2 * i, text.data() + 2 * i + 2, byte, 16);
    std::memcpy(reinterpret_cast<char*>(&algorithm) + i, &byte, 1);
  }
  return algorithm;
}

// The choice that a text names; null: this stream has not computed that product.
std::pair<const ProductKey, BlasContext::Choice>* choice_of(const Stream& stream, BlasContext& context,
                                                            const std::string& product) {
  const std::string begin = begin_of_texts(stream);
  if (!product.starts_with(begin)) return nullptr;
  for (auto& one : context.choices)
    if (product.compare(begin.size(), std::string::npos, text_of(one.first)) == 0) return &one;
  return nullptr;
}

// Memory for a product like one that was computed: `batch` matrices of `rows` rows, zeros, with exactly that
// alignment.
Tensor operand(Device device, DType type, int64_t batch, int64_t step, int64_t rows, int64_t ld,
               int64_t columns, int64_t alignment) {
  constexpr int64_t kRoom = 512;
  const int64_t count = (batch - 1) * step + (rows - 1) * ld + columns, size = size_of(type);
  const Tensor room = Tensor::empty({count + kRoom / size}, type, device);
  room.zero();
  int64_t at = 0;
  while (alignment_of(static_cast<char*>(room.raw()) + at * size) != alignment) ++at;
  return room.rows(at, at + count);
}

class TimedEvent {
 public:
  TimedEvent() { wuneng::cuda::check(cudaEventCreateWithFlags(&event_, 0), "cudaEventCreateWithFlags"); }
  ~TimedEvent() { cudaEventDestroy(event_); }
  TimedEvent(const TimedEvent&) = delete;
  void record(cudaStream_t stream) const {
    wuneng::cuda::check(cudaEventRecord(event_, stream), "cudaEventRecord");
  }
  float since(const TimedEvent& begin) const {  // milliseconds
    wuneng::cuda::wait_for(event_, "timing of products");
    float out = 0;
    wuneng::cuda::check(cudaEventElapsedTime(&out, begin.event_, event_), "cudaEventElapsedTime");
    return out;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

// Operands for products of a key.
struct Operands {
  Tensor a, b, out, from, vector;

  Operands(Device device, const ProductKey& key) {
    const auto type = static_cast<DType>(key.type), out_type = static_cast<DType>(key.out_type);
    const auto matrix = [&](int64_t rows, int64_t columns, int64_t ld, int64_t step, int64_t transpose,
                            int64_t alignment) {
      return operand(device, type, key.batch, step, transpose ? columns : rows, ld,
                     transpose ? rows : columns, alignment);
    };
    const auto result = [&](int64_t alignment) {
      return operand(device, out_type, key.batch, key.step, key.m, key.ld, key.n, alignment);
    };
    a = matrix(key.m, key.k, key.a_ld, key.a_step, key.a_transpose, key.align_a);
    b = matrix(key.k, key.n, key.b_ld, key.b_step, key.b_transpose, key.align_b);
    out = result(key.align_out);
    from = key.in_place ? out : result(key.align_from);
    if (has_bias(key) || has_sums(key))
      vector = operand(device, out_type, 1, 0, 1, 0, has_bias(key) ? key.n : key.m, key.align_vector);
  }
  static bool has_bias(const ProductKey& key) { return key.epilogue == CUBLASLT_EPILOGUE_BIAS; }
  static bool has_sums(const ProductKey& key) { return key.epilogue == CUBLASLT_EPILOGUE_BGRADB; }

  Product product(const ProductKey& key) const {
    return {.type = static_cast<DType>(key.type),
            .m = key.m,
            .n = key.n,
            .k = key.k,
            .batch = key.batch,
            .a = {a.raw(), key.a_ld, key.a_step, key.a_transpose != 0},
            .b = {b.raw(), key.b_ld, key.b_step, key.b_transpose != 0},
            .accumulate = key.accumulates ? 1.0f : 0.0f,
            .from = key.in_place ? nullptr : from.raw(),
            .bias = has_bias(key) ? vector.raw() : nullptr,
            .sums = has_sums(key) ? vector.f32() : nullptr,
            .out = out,
            .ld = key.ld,
            .step = key.step};
  }
};

std::optional<Operands> operands_if_there_is_room(Device device, const ProductKey& key) {
  try {
    return Operands(device, key);
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace

std::vector<std::string> untimed_products(const Stream& stream) {
  const std::lock_guard lock(BlasContext::mutex());
  const std::string begin = begin_of_texts(stream);
  std::vector<std::string> out;
  for (const auto& [key, choice] : BlasContext::of(stream).choices)
    if (choice.found && !choice.timed) out.push_back(begin + text_of(key));
  return out;
}

std::string fastest_algorithm(const Stream& stream, const std::string& product) {
  const std::lock_guard lock(BlasContext::mutex());
  BlasContext& context = BlasContext::of(stream);
  const auto* const one = choice_of(stream, context, product);
  require(one != nullptr, "fastest_algorithm: expected a product that this stream has computed, found {}",
          product);
  const ProductKey& key = one->first;
  const auto operands = operands_if_there_is_room(stream.device, key);
  if (!operands) return {};
  const Product like = operands->product(key);
  BlasCall call(like);
  WUNENG_ASSERT(call.key() == key);
  const auto handle = static_cast<cudaStream_t>(stream.handle);
  const std::vector<cublasLtMatmulAlgo_t> candidates = call.candidates(context.handle, kCandidates);
  std::optional<size_t> best;
  float least = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const auto run = [&] { return call.run(context.handle, candidates[i], context.workspace, handle); };
    // The first run loads the kernel. One that does not run after all is no candidate.
    if (run() != CUBLAS_STATUS_SUCCESS) continue;
    const TimedEvent begin, end;
    begin.record(handle);
    for (int n = 0; n < kRuns; ++n) check_blas(run(), "cublasLtMatmul");
    end.record(handle);
    const float time = end.since(begin);
    if (best && time >= least * (*best == 0 ? kWorthIt : 1)) continue;
    best = i;
    least = time;
  }
  return best ? text_of(candidates[*best]) : std::string();
}

bool choose_algorithm(const Stream& stream, const std::string& product, const std::string& algorithm) {
  const std::lock_guard lock(BlasContext::mutex());
  auto* const one = choice_of(stream, BlasContext::of(stream), product);
  if (!one) return false;
  BlasContext::Choice& choice = one->second;
  choice.timed = true;
  const std::string before = text_of(choice.algorithm);
  if (algorithm.empty() || algorithm == before) return false;
  choice.algorithm = algorithm_of(algorithm);
  return true;
}

}  // namespace wuneng::kernels::cuda
