#include "parallel/optimizer.h"

#include <algorithm>
#include <cmath>

#include "kernels/adamw.h"

namespace wuneng {

double LearningRate::at(int64_t step) const {
  if (step < warmup) return peak * double(step + 1) / double(warmup);
  const double done = steps > warmup ? std::min(1.0, double(step - warmup) / double(steps - warmup)) : 1.0;
  return floor + (peak - floor) * 0.5 * (1 + std::cos(3.141592653589793 * done));
}

Optimizer::Optimizer(const Parameters& parameters, const AdamwOptions& options, const Stream& stream) : options_(options), stream_(stream) {
  for (const Parameter* p : parameters) {
    if (!p->trainable) continue;
    const Tensor& value = p->var.value();
    states_.push_back({p, value.to(DType::f32), Tensor::zeros(value.shape()), Tensor::zeros(value.shape())});
  }
}

void Optimizer::step(double lr, double gradient_scale) {
  ++steps_;
  for (const State& s : states_) {
    const Tensor& value = s.parameter->var.value();
    const Tensor gradient = s.parameter->var.grad_buffer();
    kernels::adamw(stream_, {.master = s.master, .m = s.m, .v = s.v, .gradient = gradient,
                             .stored = value.dtype() == DType::bf16 ? value : Tensor(), .lr = static_cast<float>(lr), .beta1 = options_.beta1,
                             .beta2 = options_.beta2, .eps = options_.eps, .decay = s.parameter->decays ? options_.weight_decay : 0.0f,
                             .gradient_scale = static_cast<float>(gradient_scale), .step = steps_});
    gradient.zero();
  }
}

void Optimizer::write_back() {
  for (const State& s : states_)
    if (s.parameter->var.value().dtype() != DType::f32) s.parameter->var.value().copy_from(s.master);
}

}  // namespace wuneng
