// Attention of few queries to many keys, as generation has it: the time is that of reading keys and values,
// so all heads of a key/value head read them together, and the keys of one query are split over thread blocks
// whose results are combined (T. Dao et al., "Flash-Decoding for long-context inference", 2023).
#pragma once
#include "kernels/attention.h"

namespace wuneng::kernels::cuda {

// AttentionForwardArgs::by_row, and every segment is of few queries.
bool decode_attention_takes(const AttentionForwardArgs& args);
void decode_attention(const Stream& stream, const AttentionForwardArgs& args);

}  // namespace wuneng::kernels::cuda
