// Weights in int8 for generation on the CPU, where a token's time is that of reading them.
#pragma once
#include "model/decoder.h"

namespace wuneng {

// Rounds the model's matrices, its embedding and its output matrix to int8 with a scale for each row
// (symmetric: the row's largest element becomes 127). Norms, biases and the small matrices of single heads
// stay as they are. Under tensor parallelism a row is what a rank holds of it. Throws on another device.
void round_to_int8(Decoder& model);

}  // namespace wuneng
