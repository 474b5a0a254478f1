// Weights of fewer bytes for generation, where a token's time is that of reading them.
#pragma once
#include "model/decoder.h"

namespace wuneng {

// The model's matrices, its embedding and its output matrix in another type. i8: with a scale for each row
// (symmetric: the row's largest element becomes 127); under tensor parallelism a row is what a rank holds of
// it. f16: numbers beyond its range are an error. Norms, biases and the small matrices of single heads stay
// as they are.
void narrow_weights(Decoder& model, DType type);

}  // namespace wuneng
