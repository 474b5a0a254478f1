// The kernels of flash_attention.h for Hopper (TMA, mbarrier, wgmma).
#pragma once
#include "kernels/attention.h"

namespace wuneng::kernels::cuda {

// Whether this build and the device have these instructions, and WUNENG_ATTENTION=mma_sync (for comparisons)
// is not set.
bool takes_hopper_attention(Device device);

void hopper_attention_forward(const Stream& stream, const AttentionForwardArgs& args);
void hopper_attention_backward(const Stream& stream, const AttentionBackwardArgs& args);

}  // namespace wuneng::kernels::cuda
