#include "parallel/optimizer.h"

#include "kernels/adamw.h"

namespace wuneng {

Optimizer::Optimizer(const Parameters& parameters, const AdamwOptions& options, const Stream& stream)
    : options_(options), stream_(stream) {
  for (const Parameter* p : parameters) {
    if (!p->trainable) continue;
    const Tensor& value = p->var.value();
    require(value.dtype() == DType::f32 || value.dtype() == DType::bf16,
            "optimizer, parameter {}: expected f32 or bf16, found {}", p->name, to_string(value.dtype()));
    states_.push_back({.parameter = p,
                       .master = value.to(DType::f32),
                       .m = Tensor::zeros(value.shape(), DType::f32, value.device()),
                       .v = Tensor::zeros(value.shape(), DType::f32, value.device())});
  }
}

void Optimizer::step(double lr, double gradient_scale) {
  ++steps_;
  kernels::AdamwArgs args{.lr = static_cast<float>(lr),
                          .beta1 = options_.beta1,
                          .beta2 = options_.beta2,
                          .eps = options_.eps,
                          .gradient_scale = static_cast<float>(gradient_scale),
                          .step = steps_};
  for (const State& s : states_) {
    const Tensor& value = s.parameter->var.value();
    args.tensors.push_back({.master = s.master,
                            .m = s.m,
                            .v = s.v,
                            .gradient = s.parameter->var.grad_buffer(),
                            .stored = value.dtype() == DType::bf16 ? value : Tensor(),
                            .decay = s.parameter->decays ? options_.weight_decay : 0.0f});
  }
  kernels::adamw(stream_, args);
}

void Optimizer::clear_gradients() {
  for (const State& s : states_) s.parameter->var.grad_buffer().zero();
}

std::vector<Optimizer::NamedTensor> Optimizer::named_tensors() const {
  std::vector<NamedTensor> out;
  for (const State& s : states_) {
    out.push_back({s.parameter->name + "/master", s.master, s.parameter});
    out.push_back({s.parameter->name + "/m", s.m, s.parameter});
    out.push_back({s.parameter->name + "/v", s.v, s.parameter});
  }
  return out;
}

void Optimizer::write_back() const {
  for (const State& s : states_)
    if (s.parameter->var.value().dtype() == DType::bf16) s.parameter->var.value().copy_from(s.master);
}

}  // namespace wuneng
