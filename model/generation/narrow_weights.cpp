#include "model/generation/narrow_weights.h"

#include <algorithm>
#include <cmath>

#include "runtime/threads.h"

namespace wuneng {
namespace {

bool is_matrix(const Parameter& p) {
  return p.var.value().ndim() == 2 &&
         (p.name.ends_with("_proj.weight") || p.name.ends_with("embed_tokens.weight") ||
          p.name.ends_with("lm_head.weight"));
}

// rows [begin, end) of x [N, K] f32
void round_rows(const Tensor& x, const Tensor& out, const Tensor& scale, int64_t begin, int64_t end) {
  const int64_t K = x.dim(1);
  for (int64_t n = begin; n < end; ++n) {
    const float* row = x.f32() + n * K;
    float largest = 0;
    for (int64_t k = 0; k < K; ++k) largest = std::max(largest, std::abs(row[k]));
    const float unit = largest / 127;
    scale.f32()[n] = unit;
    for (int64_t k = 0; k < K; ++k)
      out.data<int8_t>()[n * K + k] = static_cast<int8_t>(unit > 0 ? std::lround(row[k] / unit) : 0);
  }
}

void check_range(const Tensor& x, const std::string& name) {
  for (int64_t i = 0; i < x.numel(); ++i)
    require(std::abs(x.f32()[i]) < 65520, "{}: expected numbers below 65520 for f16, found {}", name,
            x.f32()[i]);
}

}  // namespace

void narrow_weights(Decoder& model, DType type) {
  WUNENG_ASSERT(type == DType::i8 || type == DType::f16);
  const Device device = model.placement().device;
  for (Parameter* p : model.parameters()) {
    if (!is_matrix(*p)) continue;
    const Tensor x = p->var.value().to(Device{}).to(DType::f32), out = Tensor::empty(x.shape(), type);
    if (type == DType::i8) {
      const Tensor scale = Tensor::empty({x.dim(0)});
      parallel_for(x.dim(0), 64, [&](int64_t begin, int64_t end) { round_rows(x, out, scale, begin, end); });
      p->row_scale = scale.to(device);
    } else {
      check_range(x, p->name);
      out.copy_from(x);
    }
    p->var = Var(out.to(device));
  }
  const Parameters all = model.parameters();
  for (size_t i = 0; i + 1 < all.size(); ++i)
    if (all[i]->joins_next) join(*all[i], *all[i + 1]);
}

}  // namespace wuneng
