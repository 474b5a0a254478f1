// The one way a kernel is declared. WUNENG_KERNEL(name, Args) declares cpu::name and cuda::name with the same
// signature and kernels::name, which picks the backend by the stream's device.
//
// Args is a struct of named arguments: tensors (shapes in its comments) and numbers. Activations and their
// gradients have one type in a call: f32, or on a GPU f32 or bf16. Sums are formed in f32. A tensor whose
// comment says "weight" may be f32 or bf16 whatever the activations are; gradients of weights are f32, and so
// is every tensor whose comment says f32. The gradient of an activation is a Gradient (runtime/gradient.h).
#pragma once
#include "runtime/device.h"
#include "runtime/dry_run.h"
#include "runtime/error.h"
#include "runtime/gradient.h"
#include "runtime/tensor.h"

#ifdef WUNENG_WITH_CUDA
#define WUNENG_CUDA_CALL(name) return cuda::name(stream, args)
#else
#define WUNENG_CUDA_CALL(name) fail("{}: this build has no CUDA kernels", #name)
#endif

namespace wuneng::kernels {
// What a dry run counts of a call. Kernels of products say their own, 2 for a multiplication and addition,
// beside their arguments; others are bound by memory.
template <class Args>
double flops_of(const Args&) {
  return 0;
}
}  // namespace wuneng::kernels

#define WUNENG_KERNEL(name, Args)                            \
  namespace cpu {                                            \
  void name(const Stream&, const Args&);                     \
  }                                                          \
  namespace cuda {                                           \
  void name(const Stream&, const Args&);                     \
  }                                                          \
  inline void name(const Stream& stream, const Args& args) { \
    if (stream.device.dry)                                   \
      dry_run::count_kernel(#name, flops_of(args));          \
    else if (stream.device.kind == DeviceKind::cpu)          \
      cpu::name(stream, args);                               \
    else                                                     \
      WUNENG_CUDA_CALL(name);                                \
  }                                                          \
  static_assert(true)
