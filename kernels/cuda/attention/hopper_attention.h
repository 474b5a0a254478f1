// flash_attention.h's on a Hopper, by its own instructions.
#pragma once
#include "kernels/attention.h"

namespace wuneng::kernels::cuda {

// Whether the device has them, this build too, and WUNENG_ATTENTION=mma_sync does not say otherwise (for
// comparisons).
bool takes_hopper_attention(Device device);

void hopper_attention_forward(const Stream& stream, const AttentionForwardArgs& args);
void hopper_attention_backward(const Stream& stream, const AttentionBackwardArgs& args);

}  // namespace wuneng::kernels::cuda
