// Sequence parallelism (Megatron-LM, arXiv 2205.05198): outside of what tensor-parallel ranks compute on
// their own heads and channels, each rank has a share of a micro-batch's rows: norms, residual sums, and the
// hidden state that passes between pipeline stages. An all-gather stands where a layer's part begins and a
// reduce-scatter where it ends, in the place of an all-reduce and with its bytes.
//
// A share of T rows has R = ceil(T / tp) rows, rank r's begin at r R. Rows from T on are padding: they are
// zero, and so are their gradients.
#pragma once
#include "parallel/parameter.h"
#include "runtime/comm.h"
#include "runtime/tape.h"

namespace wuneng {

int64_t rows_of_share(int64_t rows, int ranks);  // R
// Those of [0, T) that a rank's share has, without padding; possibly none.
Range share_of_rows(int64_t rows, int ranks, int rank);

// A tensor [tp R, d] whose rows [0, T) the caller fills; the padding is zero.
Tensor padded_rows(const Comm& tp, int64_t rows, int64_t channels, DType dtype, Device device);
// This rank's share [R, d] of the sum over the ranks of `shares` [tp R, d], which is overwritten.
Tensor reduce_scatter_rows(const Comm& tp, const Tensor& shares, const char* what);
// [R, d] of each rank -> [T, d].
Tensor all_gather_rows(const Comm& tp, const Tensor& share, int64_t rows, const char* what);

// [R, d] of each rank -> [T, d], which every rank reads in its own way: gradients are summed over the ranks.
// Weight gradients of what reads it overlap that sum.
Var gather_rows(Tape& tape, const Comm& tp, const Var& x, int64_t rows);
// The same for what all ranks compute alike, whose gradient all of them have.
Var gather_rows_for_all(Tape& tape, const Comm& tp, const Var& x, int64_t rows);
// A share of a sum on each rank, [T, d], which may be overwritten -> the sum's rows of this rank [R, d].
Var scatter_sum(Tape& tape, const Comm& tp, const Var& x);

}  // namespace wuneng
