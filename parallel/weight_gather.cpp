#include "parallel/weight_gather.h"

namespace wuneng {

WeightGather::WeightGather(const std::vector<Bucket>& buckets, const Comm& dp) : dp_(dp) {
  for (const Bucket& bucket : buckets) {
    const DType dtype = bucket.places[0].parameter->var.value().dtype();
    weights_.push_back(bucket.zeros(dtype));
    for (const auto& [p, elements] : bucket.places) {
      const Tensor value = p->var.value();
      require(value.dtype() == dtype, "parameter {}: expected {} as of others in its bucket, found {}",
              p->name, to_string(dtype), to_string(value.dtype()));
      const Tensor moved = weights_.back().rows(elements.begin, elements.end).view(value.shape());
      moved.copy_from(value);
      const Tensor gradient = p->var.has_grad() ? p->var.grad() : Tensor();
      p->var = Var(moved, true, DType::f32);
      if (gradient.defined()) p->var.set_grad(gradient);
    }
  }
}

void WeightGather::run() const {
  std::vector<Request> gathers;
  for (const Tensor& weights : weights_) {
    const int64_t share = weights.numel() / dp_.size(), begin = share * dp_.rank();
    gathers.push_back(dp_.iall_gather(weights.rows(begin, begin + share), weights, "weights over dp"));
  }
  for (Request& gather : gathers) gather.wait();
}

}  // namespace wuneng
