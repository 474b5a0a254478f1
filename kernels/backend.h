// The one way a kernel is declared. WUNENG_KERNEL(name, Args) declares cpu::name and cuda::name with the same
// signature and kernels::name, which picks the backend by the stream's device.
//
// Args is a struct of named arguments: tensors (shapes in its comments) and numbers. Activations and their
// gradients are f32, on a GPU f32 or bf16, all of a call alike; sums are f32 until they are stored. Weights
// are f32 or bf16 where the comment says "weight"; their gradients are f32, as is what the comment says is.
// An activation's gradient is a Gradient: where it is put, and what it is added to.
#pragma once
#include "runtime/device.h"
#include "runtime/error.h"
#include "runtime/gradient.h"
#include "runtime/tensor.h"

#ifdef WUNENG_WITH_CUDA
#define WUNENG_CUDA_CALL(name) return cuda::name(stream, args)
#else
#define WUNENG_CUDA_CALL(name) fail("{}: this build has no CUDA kernels", #name)
#endif

#define WUNENG_KERNEL(name, Args)                            \
  namespace cpu {                                            \
  void name(const Stream&, const Args&);                     \
  }                                                          \
  namespace cuda {                                           \
  void name(const Stream&, const Args&);                     \
  }                                                          \
  inline void name(const Stream& stream, const Args& args) { \
    if (stream.device.kind == DeviceKind::cpu)               \
      cpu::name(stream, args);                               \
    else                                                     \
      WUNENG_CUDA_CALL(name);                                \
  }                                                          \
  static_assert(true)
