#include "launch/verify/observations.h"

#include <cmath>
#include <limits>

#include "runtime/hash.h"

namespace wuneng {
namespace {

// A copy in f32 on the host.
Tensor host_copy(const Tensor& values) {
  const Tensor host = values.to(Device{}).to(DType::f32);
  return host.raw() == values.raw() ? host.clone() : host;
}

class Recorder : public Observer {
 public:
  Recorder(Observations& to, std::string micro_batch, double noise, uint64_t seed)
      : to_(to), micro_batch_(std::move(micro_batch)), noise_(static_cast<float>(noise)), seed_(seed) {}

  void value(const ObservedName& name, const Tensor& value) override {
    const std::string full = micro_batch_ + " forward: " + name.text;
    if (noise_ != 0) value.copy_from(perturbed(full, value));
    to_.put(full, value, name.first_row);
  }
  Tensor gradient(const ObservedName& name, const Tensor& gradient) override {
    const std::string full = micro_batch_ + " backward: " + name.text;
    Tensor out = gradient;
    if (noise_ != 0) {  // in a tensor that no other value's gradient shares
      out = Tensor::empty(gradient.shape(), gradient.dtype(), gradient.device());
      out.copy_from(perturbed(full, gradient));
    }
    to_.put(full, out, name.first_row);
    return out;
  }

 private:
  Tensor perturbed(const std::string& name, const Tensor& values) const {
    const Tensor out = host_copy(values);
    uint64_t state = XXH3_64bits_withSeed(name.data(), name.size(), seed_);
    for (int64_t i = 0; i < out.numel(); ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;  // Knuth's MMIX generator
      out.f32()[i] *= 1 + (state >> 63 ? noise_ : -noise_);
    }
    return out;
  }

  Observations& to_;
  const std::string micro_batch_;
  const float noise_;
  const uint64_t seed_;
};

}  // namespace

std::vector<ObservedPart>& Observations::at(const std::string& name) {
  const auto [entry, is_new] = parts_.try_emplace(name);
  if (is_new) names_.push_back(name);
  return entry->second;
}

void Observations::put(const std::string& name, const Tensor& values, int64_t first_row) {
  Shape begin(values.shape().size(), 0);
  if (first_row > 0) begin[0] = first_row;
  at(name) = {{std::move(begin), host_copy(values)}};
}

void Observations::add(const std::string& name, const ParameterPart& part, const Tensor& values) {
  const Tensor host = host_copy(values);
  for (const Rectangle& r : rectangles(part))
    at(name).push_back(
        {r.begin, host.rows(r.elements.begin - part.elements.begin, r.elements.end - part.elements.begin)
                      .view(r.size)});
}

const std::vector<ObservedPart>& Observations::parts(const std::string& name) const {
  static const std::vector<ObservedPart> none;
  const auto found = parts_.find(name);
  return found == parts_.end() ? none : found->second;
}

void Difference::take(const Difference& other) {
  const int64_t all = elements + other.elements;
  if (elements == 0 || other.size > size) *this = other;
  elements = all;
}

Difference difference(const Tensor& expected, const std::vector<ObservedPart>& found) {
  Difference out;
  const Shape& whole = expected.shape();
  for (const auto& [begin, values] : found) {
    const Shape& size = values.shape();
    bool within = begin.size() == whole.size() && size.size() == whole.size();
    for (size_t k = 0; within && k < whole.size(); ++k)
      within = begin[k] >= 0 && begin[k] + size[k] <= whole[k];
    require(within, "expected a part of a tensor {}, found one {} from {} on", to_string(whole),
            to_string(size), to_string(begin));
    for (int64_t i = 0; i < values.numel(); ++i) {
      int64_t index = 0, rest = i, stride = 1;  // from the last dimension on
      for (size_t k = whole.size(); k-- > 0;) {
        index += (begin[k] + rest % size[k]) * stride;
        rest /= size[k];
        stride *= whole[k];
      }
      const double a = expected.f32()[index], b = values.f32()[i];
      const double apart = std::isfinite(a - b) ? std::abs(a - b) : std::numeric_limits<double>::infinity();
      out.take({1, apart, index, a, b});
    }
  }
  return out;
}

std::shared_ptr<Observer> recorder(Observations& to, std::string micro_batch, double noise, uint64_t seed) {
  return std::make_shared<Recorder>(to, std::move(micro_batch), noise, seed);
}

std::string place(int64_t index, const Shape& shape) {
  Shape at(shape.size());
  for (size_t k = shape.size(); k-- > 0;) {
    at[k] = index % shape[k];
    index /= shape[k];
  }
  return to_string(at);
}

}  // namespace wuneng
