#include "model/initialize.h"

#include <cmath>
#include <numeric>

namespace wuneng {
namespace {

uint64_t mix_bits(uint64_t x) {  // splitmix64's finaliser
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

uint64_t hash(const std::string& name, uint64_t seed) {
  uint64_t h = mix_bits(seed);
  for (char c : name) h = mix_bits(h ^ static_cast<unsigned char>(c));
  return h;
}

float standard_normal(uint64_t key, uint64_t index) {  // Box-Muller on two hashes of the place
  const uint64_t a = mix_bits(key ^ mix_bits(2 * index)), b = mix_bits(key ^ mix_bits(2 * index + 1));
  const double u = (double(a >> 11) + 1) * 0x1p-53, v = double(b >> 11) * 0x1p-53;
  return static_cast<float>(std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v));
}

// Writes value(logical index) for every element that the shard holds.
template <class F>
void fill(const Parameter& p, const F& value) {
  const Shape &global = p.global_shape, begin = p.held_begin(), local = p.local_shape();
  const Tensor& to = p.var.value();
  const bool in_place = to.dtype() == DType::f32 && to.device() == Device{};
  const Tensor f32 = in_place ? to : Tensor::empty(local);
  std::vector<int64_t> at(local.size(), 0);
  for (int64_t i = 0; i < f32.numel(); ++i) {
    int64_t index = 0;
    for (size_t k = 0; k < local.size(); ++k) index = index * global[k] + begin[k] + at[k];
    f32.f32()[i] = value(index);
    for (int k = static_cast<int>(local.size()) - 1; k >= 0 && ++at[k] == local[k]; --k) at[k] = 0;
  }
  if (!in_place) to.copy_from(f32);
}

}  // namespace

Initializer constant(float value) {
  return [=](const Parameter& p, uint64_t) { fill(p, [=](int64_t) { return value; }); };
}

Initializer normal(float scale, std::function<float(int64_t)> mean) {
  return [=](const Parameter& p, uint64_t seed) {
    const uint64_t key = hash(p.name, seed);
    fill(p, [&](int64_t i) { return (mean ? mean(i) : 0) + scale * standard_normal(key, i); });
  };
}

// Gram-Schmidt on random vectors of max(C, R) elements.
Initializer orthogonal(float scale) {
  return [=](const Parameter& p, uint64_t seed) {
    const int64_t C = p.global_shape[0], R = p.global_shape[1], count = std::min(C, R), size = std::max(C, R);
    const uint64_t key = hash(p.name, seed);
    std::vector<std::vector<double>> basis(count, std::vector<double>(size));
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t i = 0; i < size; ++i) basis[j][i] = standard_normal(key, j * size + i);
      const auto project = [&](const std::vector<double>& onto) {
        return std::inner_product(onto.begin(), onto.end(), basis[j].begin(), 0.0);
      };
      for (int64_t before = 0; before < j; ++before) {
        const double along = project(basis[before]);
        for (int64_t i = 0; i < size; ++i) basis[j][i] -= along * basis[before][i];
      }
      const double length = std::sqrt(project(basis[j]));
      for (double& x : basis[j]) x /= length;
    }
    fill(p, [&](int64_t i) {
      const int64_t row = i / R, column = i % R;
      return static_cast<float>(scale * (C >= R ? basis[column][row] : basis[row][column]));
    });
  };
}

Initializer values(std::function<float(int64_t)> value) {
  return [=](const Parameter& p, uint64_t) { fill(p, value); };
}

SourceInitializer from_tensor(std::function<Tensor(const SourceRows&)> value) {
  return [=](const Parameter& p, uint64_t, const SourceRows& source) {
    const Tensor whole = value(source);
    fill(p, [&](int64_t i) { return whole.f32()[i]; });
  };
}

Init added(Initializer either) { return added(either, either); }

Init added_by_option(Initializer either) {
  Init init = added(std::move(either));
  init.optional = true;
  return init;
}

Init added(Initializer random, SourceInitializer from_source) {
  return {std::move(random), std::move(from_source)};
}

Init added(Initializer random, Initializer from_source) {
  return added(std::move(random), [start = std::move(from_source)](const Parameter& p, uint64_t seed,
                                                                   const SourceRows&) { start(p, seed); });
}

}  // namespace wuneng
