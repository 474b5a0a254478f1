// Attention for bf16 activations and heads of 64 or 128 channels.
#pragma once
#include "kernels/attention.h"

namespace wuneng::kernels::cuda {

// Whether the functions below support these tensors, and no window leaves a key out.
bool flash_attention_takes(const AttentionForwardArgs& args);
bool flash_attention_takes(const AttentionBackwardArgs& args);

void flash_attention_forward(const Stream& stream, const AttentionForwardArgs& args);
void flash_attention_backward(const Stream& stream, const AttentionBackwardArgs& args);

}  // namespace wuneng::kernels::cuda
