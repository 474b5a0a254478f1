// Attention where all activations are bf16 and heads have 64 or 128 channels: the case that models have.
#pragma once
#include "kernels/attention.h"

namespace wuneng::kernels::cuda {

// Whether the two below take these tensors.
bool flash_attention_takes(const AttentionForwardArgs& args);
bool flash_attention_takes(const AttentionBackwardArgs& args);

void flash_attention_forward(const Stream& stream, const AttentionForwardArgs& args);
void flash_attention_backward(const Stream& stream, const AttentionBackwardArgs& args);

}  // namespace wuneng::kernels::cuda
