#include "parallel/optimizer.h"

#include "kernels/adamw.h"
#include "kernels/clip.h"

namespace wuneng {

Optimizer::Optimizer(const std::vector<ParameterPart>& parts, const AdamwOptions& options,
                     const Stream& stream)
    : options_(options), stream_(stream) {
  for (const ParameterPart& part : parts) {
    const Parameter& p = *part.parameter;
    if (!p.trainable) continue;
    const Tensor value = part.of(p.var.value());
    require(value.dtype() == DType::f32 || value.dtype() == DType::bf16,
            "optimizer, parameter {}: expected f32 or bf16, found {}", p.name, to_string(value.dtype()));
    states_.push_back({.part = part,
                       .master = value.to(DType::f32),
                       .m = Tensor::zeros(value.shape(), DType::f32, value.device()),
                       .v = Tensor::zeros(value.shape(), DType::f32, value.device())});
  }
}

void Optimizer::step(double lr, const Tensor& gradient_scale) {
  ++steps_;
  kernels::AdamwArgs args{.lr = static_cast<float>(lr),
                          .beta1 = options_.beta1,
                          .beta2 = options_.beta2,
                          .eps = options_.eps,
                          .gradient_scale = gradient_scale,
                          .step = steps_};
  for (const State& s : states_) {
    const Parameter& p = *s.part.parameter;
    args.tensors.push_back({.master = s.master,
                            .m = s.m,
                            .v = s.v,
                            .gradient = s.part.of(p.var.grad_buffer()),
                            .stored = s.has_master() ? s.part.of(p.var.value()) : Tensor(),
                            .decay = p.decays ? options_.weight_decay : 0.0f});
  }
  kernels::adamw(stream_, args);
}

std::vector<Optimizer::NamedTensor> Optimizer::named_tensors() const {
  std::vector<NamedTensor> out;
  for (const State& s : states_) {
    const std::string& name = s.part.parameter->name;
    if (s.has_master()) out.push_back({name + "/master", s.master, s.part});
    out.push_back({name + "/m", s.m, s.part});
    out.push_back({name + "/v", s.v, s.part});
  }
  return out;
}

int64_t Optimizer::bytes() const {
  int64_t sum = 0;
  for (const NamedTensor& t : named_tensors()) sum += t.tensor.bytes();
  return sum;
}

void Optimizer::write_back() const {
  for (const State& s : states_)
    if (s.has_master()) s.part.of(s.part.parameter->var.value()).copy_from(s.master);
}

Tensor clip_scale(const Tensor& squared_norm, double max_norm) {
  const Device device = squared_norm.device();
  const Tensor scale = Tensor::empty({1}, DType::f32, device);
  kernels::clip_scale(compute_stream(device),
                      {.squares = squared_norm, .max_norm = max_norm, .scale = scale});
  return scale;
}

}  // namespace wuneng
