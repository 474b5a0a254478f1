#include "model/generation/sampler.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "runtime/error.h"

namespace wuneng {
namespace {

constexpr size_t kFirstSorted = 64;  // tokens; four times as many while top-p asks for more

// The most probable first; of equals the lower token.
bool before(const std::pair<float, int32_t>& a, const std::pair<float, int32_t>& b) {
  return a.first != b.first ? a.first > b.first : a.second < b.second;
}

}  // namespace

void check_sampling(const Sampling& s, const std::string& where) {
  const auto finite_from = [&](double value, const char* name, double least) {
    require(std::isfinite(value) && value >= least, "{}: {} = {}: expected {} or more", where, name, value,
            least);
  };
  finite_from(s.temperature, "temperature", 0);
  require(s.top_k >= 0, "{}: top_k = {}: expected 0 or more", where, s.top_k);
  require(s.top_p > 0 && s.top_p <= 1, "{}: top_p = {}: expected more than 0, at most 1", where, s.top_p);
  require(s.min_p >= 0 && s.min_p <= 1, "{}: min_p = {}: expected 0 to 1", where, s.min_p);
  require(std::isfinite(s.repetition_penalty) && s.repetition_penalty > 0,
          "{}: repetition_penalty = {}: expected more than 0", where, s.repetition_penalty);
}

Sampler::Sampler(const Sampling& sampling, const std::vector<int32_t>& before, int64_t vocab)
    : sampling_(sampling), vocab_(vocab), random_(sampling.seed) {
  if (sampling_.repetition_penalty == 1) return;
  used_.resize(vocab);
  for (const int32_t token : before) used_[token] = true;
}

int32_t Sampler::operator()(const float* logits) {
  if (sampling_.repetition_penalty == 1) return draw(logits);
  penalised_.assign(logits, logits + vocab_);
  const float penalty = static_cast<float>(sampling_.repetition_penalty);
  for (int64_t i = 0; i < vocab_; ++i)
    if (used_[i]) penalised_[i] *= penalised_[i] > 0 ? 1 / penalty : penalty;
  const int32_t token = draw(penalised_.data());
  used_[token] = true;
  return token;
}

int32_t Sampler::draw(const float* logits) {
  const int64_t best = std::max_element(logits, logits + vocab_) - logits;
  if (sampling_.temperature == 0) return static_cast<int32_t>(best);
  const float most = logits[best];
  // Probabilities are relative to the most probable token's. Without top-k and top-p, tokens below e^-40 of
  // it, together less than 1e-12, are left out, and so are those below min_p.
  const double least =
      std::max(sampling_.min_p, sampling_.top_k || sampling_.top_p < 1 ? 0.0 : std::exp(-40.0));
  const float threshold = most + static_cast<float>(std::log(least) * sampling_.temperature);
  allowed_.clear();
  for (int64_t i = 0; i < vocab_; ++i)
    if (sampling_.top_k || sampling_.top_p < 1 || logits[i] >= threshold)
      allowed_.emplace_back(logits[i], static_cast<int32_t>(i));
  const auto weight = [&](const std::pair<float, int32_t>& x) {
    return std::exp((double(x.first) - most) / sampling_.temperature);
  };
  const size_t all = allowed_.size();
  size_t sorted = 0;  // so many are the most probable ones, in order
  const auto sort_first = [&](size_t count) {
    const auto begin = allowed_.begin() + static_cast<int64_t>(sorted),
               end = allowed_.begin() + static_cast<int64_t>(count);
    if (count < all) std::nth_element(begin, end, allowed_.end(), before);
    std::sort(begin, end, before);
    sorted = count;
  };
  size_t kept = all;
  if (sampling_.top_k && sampling_.top_k < vocab_) sort_first(kept = static_cast<size_t>(sampling_.top_k));
  if (sampling_.top_p < 1) {
    double sum = 0, reached = 0;
    for (size_t i = 0; i < kept; ++i) sum += weight(allowed_[i]);
    size_t i = 0;
    for (; i < kept && reached < sampling_.top_p * sum; ++i) {
      if (i == sorted) sort_first(std::min(kept, std::max<size_t>(kFirstSorted, 4 * sorted)));
      reached += weight(allowed_[i]);
    }
    kept = std::max<size_t>(1, i);
  }
  double sum = 0;
  const auto possible = [&](const std::pair<float, int32_t>& x) { return x.first >= threshold; };
  for (size_t i = 0; i < kept; ++i)
    if (possible(allowed_[i])) sum += weight(allowed_[i]);
  // 53 bits, the same in every standard library.
  double left = double(random_() >> 11) * 0x1p-53 * sum;
  int32_t token = static_cast<int32_t>(best);
  for (size_t i = 0; i < kept; ++i) {
    if (!possible(allowed_[i])) continue;
    token = allowed_[i].second;
    left -= weight(allowed_[i]);
    if (left < 0) break;
  }
  return token;
}

ScoredToken score(const float* logits, int64_t vocab, int32_t token, int64_t n) {
  const float most = *std::max_element(logits, logits + vocab);
  double sum = 0;
  for (int64_t i = 0; i < vocab; ++i) sum += std::exp(double(logits[i]) - most);
  const double normaliser = most + std::log(sum);
  ScoredToken out{token, static_cast<float>(logits[token] - normaliser)};
  n = std::min(n, vocab);
  if (n <= 0) return out;
  std::vector<std::pair<float, int32_t>> all;
  for (int64_t i = 0; i < vocab; ++i) all.emplace_back(logits[i], static_cast<int32_t>(i));
  std::partial_sort(all.begin(), all.begin() + n, all.end(), before);
  for (int64_t i = 0; i < n; ++i)
    out.top.emplace_back(all[i].second, static_cast<float>(all[i].first - normaliser));
  return out;
}

}  // namespace wuneng
