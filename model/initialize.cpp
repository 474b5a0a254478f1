#include "model/initialize.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "kernels/matmul.h"

extern "C" {
void ssyevd_(const char* jobz, const char* uplo, const int* n, float* a, const int* lda, float* w,
             float* work, const int* lwork, int* iwork, const int* liwork, int* info);
void openblas_set_num_threads(int threads);
}

namespace wuneng {
namespace {

constexpr const char* kMarker = ".self_attn.state.";

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

float normal(uint64_t key, uint64_t index) {  // Box-Muller on two hashes of the place
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

void fill_normal(const Parameter& p, uint64_t seed, float scale, float mean = 0) {
  const uint64_t key = hash(p.name, seed);
  fill(p, [=](int64_t i) { return mean + scale * normal(key, i); });
}

void fill_constant(const Parameter& p, float value) {
  fill(p, [=](int64_t) { return value; });
}

struct Place {  // "model.layers.3.self_attn.state.w0" -> layer 3, "w0"
  int64_t layer;
  std::string part;
};

Place place_of(const std::string& name) {
  const size_t marker = name.find(kMarker), dot = std::string("model.layers.").size();
  return {std::stoll(name.substr(dot)), name.substr(marker + std::string(kMarker).size())};
}

// What starts the same whether or not there is a teacher: gates, mixes and RWKV-7's own. Returns false for
// the rest.
bool initialize_common(const Parameter& p, const ModelConfig& c, const Place& at, uint64_t seed) {
  const WunengConfig& o = c.wuneng;
  const double L = double(c.num_layers), l = L > 1 ? at.layer / (L - 1) : 0, q = 1 - at.layer / L;
  const int64_t C = p.global_shape[0], D = c.head_dim;
  const std::string& part = at.part;
  if (part.rfind("mu_", 0) == 0) {
    const double power = part == "mu_r" ? 0.2 : part == "mu_w" || part == "mu_a" ? 0.9 : 0.7;
    fill(p, [=](int64_t i) { return float(1 - std::pow(double(i) / C, power * q)); });
  } else if (part == "w0" || part == "a0") {
    fill(p, [=](int64_t i) {
      const double n = C > 1 ? double(i) / (C - 1) : 0, u = D > 1 ? 2.0 * (i % D) / (D - 1) - 1 : 0,
                   z = u * std::abs(u);
      return float(part == "w0" ? -6 + 6 * std::pow(n, 1 + std::pow(l, 0.3)) + 0.5 + 2.5 * z
                                : -0.19 + 0.3 * z + 0.4 * (n - 0.5));
    });
  } else if (part == "w1" || part == "a1") {
    fill_constant(p, 0);
  } else if (part == "w2" || part == "a2") {
    fill_normal(p, seed, 0.1f / std::sqrt(float(std::max(p.global_shape[0], p.global_shape[1]))));
  } else if (part == "k_a" || part == "state_norm" || part == "beta") {
    fill_constant(p, 1);
  } else if (part == "value_middle") {
    fill_constant(p, 0);
  } else if (part == "gate" || part == "khat" || part == "query_state") {
    fill_normal(p, seed, 1 / std::sqrt(float(p.global_shape.back())));
  } else if (part == "value_attention" && o.value_from("token")) {
    fill_constant(p, 0);
  } else if (part == "r_head") {  // the identity plus noise
    const uint64_t key = hash(p.name, seed);
    fill(p,
         [=](int64_t i) { return float(i / D % D == i % D) + 0.1f / std::sqrt(float(D)) * normal(key, i); });
  } else {
    return false;
  }
  return true;
}

// The best approximation of A [n, d] of rank r as second [n, r] first [r, d]: the leading eigenvectors of A
// A^T.
struct Factors {
  Tensor first, second;
};

Factors factorise(const Tensor& A, int64_t r, const std::string& name) {
  const int n = static_cast<int>(A.dim(0));
  require(r <= n, "{}: state_rank {} is above its {} rows", name, r, n);
  const Tensor gram = Tensor::empty({n, n});
  kernels::matmul({}, {.a = A, .b = A, .c = gram, .transpose_b = true});
  openblas_set_num_threads(1);  // one order of summation on every machine
  std::vector<float> values(n), work(1);
  std::vector<int> iwork(1);
  int query = -1, info = 0;
  ssyevd_("V", "U", &n, gram.f32(), &n, values.data(), work.data(), &query, iwork.data(), &query, &info);
  work.resize(static_cast<size_t>(work[0]));
  iwork.resize(iwork[0]);
  const int lwork = static_cast<int>(work.size()), liwork = static_cast<int>(iwork.size());
  ssyevd_("V", "U", &n, gram.f32(), &n, values.data(), work.data(), &lwork, iwork.data(), &liwork, &info);
  require(info == 0, "{}: eigenvectors did not converge (LAPACK ssyevd info {})", name, info);
  // LAPACK leaves eigenvectors as columns of a column-major matrix, rising: rows of ours, the leading ones
  // last.
  Factors out{Tensor::empty({r, A.dim(1)}), Tensor::empty({n, r})};
  const Tensor leading = gram.rows(n - r, n);
  kernels::matmul({}, {.a = leading, .b = A, .c = out.first});
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = 0; k < r; ++k) out.second.f32()[i * r + k] = leading.f32()[k * n + i];
  return out;
}

// The matrix that a state projection approximates: the group's mean W^Q, its W^K, or (full query) W^Q itself.
// [out, d]
Tensor projection_target(const ModelConfig& c, const Place& at, const std::string& which,
                         const SourceRows& teacher) {
  const int64_t D = c.head_dim, N = c.wuneng.state_heads, H = c.num_heads, G = c.num_kv_heads,
                d = c.hidden_size;
  const std::string prefix = fmt::format("model.layers.{}.self_attn.", at.layer);
  if (which == "r_proj") {
    const Tensor q = teacher(prefix + "q_proj.weight", 0, H * D);
    if (c.wuneng.state_query == "full") return q;
    const Tensor mean = Tensor::zeros({N * D, d});
    const int64_t P = H / N, block = D * d;
    for (int64_t h = 0; h < H; ++h)
      for (int64_t i = 0; i < block; ++i) mean.f32()[h / P * block + i] += q.f32()[h * block + i] / P;
    return mean;
  }
  const Tensor k = teacher(prefix + "k_proj.weight", 0, G * D), out = Tensor::empty({N * D, d});
  for (int64_t s = 0; s < N; ++s)
    out.rows(s * D, (s + 1) * D).copy_from(k.rows(s * G / N * D, (s * G / N + 1) * D));
  return out;
}

}  // namespace

bool is_state_parameter(const std::string& name) { return name.find(kMarker) != std::string::npos; }

void initialize_random(const Parameter& p, const ModelConfig& c, uint64_t seed) {
  if (!is_state_parameter(p.name)) {
    if (p.name.find("norm.weight") != std::string::npos) return fill_constant(p, 1);
    if (p.global_shape.size() < 2) return fill_constant(p, 0);
    const bool output =
        p.name.find("o_proj") != std::string::npos || p.name.find("down_proj") != std::string::npos;
    return fill_normal(p, seed, output ? 0.02f / std::sqrt(2.0f * c.num_layers) : 0.02f);
  }
  const Place at = place_of(p.name);
  if (initialize_common(p, c, at, seed)) return;
  if (at.part == "alpha") return fill_constant(p, 1);
  if (at.part == "gamma" || at.part == "lambda") return fill_constant(p, 0);
  if (at.part == "o_state" || at.part == "o_middle") return fill_constant(p, 0);
  if (at.part == "mix_state" || at.part == "mix_middle") return fill_constant(p, 0);
  fill_normal(p, seed, 1 / std::sqrt(float(p.global_shape.back())));  // projections and per-head matrices
}

void initialize_preserving(const Parameter& p, const ModelConfig& c, uint64_t seed,
                           const SourceRows& teacher) {
  const Place at = place_of(p.name);
  const WunengConfig& o = c.wuneng;
  if (at.part == "alpha") return fill_constant(p, o.combine_state == "sum" ? 0 : 1);
  if (at.part == "mid" || at.part == "mid_state") {
    if (o.combine_middle == "sum") return fill_constant(p, 0);  // then M = silu(0) = 0
    return fill_normal(p, seed, 1 / std::sqrt(float(c.head_dim)));
  }
  const size_t dot = at.part.find('.');
  if (dot != std::string::npos) {  // r_proj, kappa_proj, state_k_proj: whole, or one of two factors
    const std::string which = at.part.substr(0, dot), rest = at.part.substr(dot + 1);
    const Tensor target = projection_target(c, at, which, teacher);
    Tensor value = target;
    if (o.state_rank) {
      const Factors factors = factorise(target, o.state_rank, p.name);
      value = rest == "first.weight" ? factors.first : factors.second;
    }
    return fill(p, [&](int64_t i) { return value.f32()[i]; });
  }
  if (at.part == "value_attention" && !o.value_from("token")) {  // the mean of the group's heads
    const int64_t D = c.head_dim, P = c.num_heads / o.state_heads;
    return fill(p, [=](int64_t i) { return i / D % D == i % D ? 1.0f / P : 0.0f; });
  }
  initialize_random(p, c, seed);
}

}  // namespace wuneng
