// Chains of the backward split into pieces. If there are too few chains to fill the GPU, the state gradient
// alone, which is the only sequential part, is first propagated along each chain (wkv7_chain.h) and stored
// after each piece; then all other gradients are computed for all pieces in parallel.
#pragma once
#include <algorithm>

#include "kernels/cuda/common/upload.h"
#include "kernels/wkv7.h"

namespace wuneng::kernels::cuda {

template <class T>
struct Reading {
  const T *dy, *r;  // [T, R, D]
  T* dr;            // null: not computed
};
template <class T>
struct Readings {
  Reading<T> first, second;
  int count;
  int64_t R;
};
template <class T>
Readings<T> readings_of(const Wkv7BackwardArgs& args) {
  WUNENG_ASSERT(args.readings.size() <= 2);
  Readings<T> readings{};
  for (const auto& pair : args.readings) {
    const Reading<T> reading{pair.dy.data<T>(), pair.r.data<T>(),
                             pair.dr.defined() ? pair.dr.data<T>() : nullptr};
    (readings.count++ ? readings.second : readings.first) = reading;
    readings.R = pair.r.dim(1);
  }
  return readings;
}

struct Pieces {
  int64_t count;
  bool cut;       // some segment has several pieces
  Tensor pieces;  // [count, 5]: begin, rows, first stored state, segment, 1 if its first + 2 if its last
  Tensor chains;  // [segments, 4]: begin, count, first piece, rows per piece
  Tensor
      later;  // [count - segments, 4]: of a segment's pieces but the first begin, rows, the piece before, 0
};

// Splits the segments so that pieces * N is about `blocks`; pieces begin at stored states.
inline Pieces split_in_pieces(const std::vector<Wkv7Segment>& segments, int64_t N, int64_t blocks,
                              Device device) {
  const int64_t kept = wkv7_kept(device.kind), share = wkv7_kept_count(segments, device.kind) * N;
  std::vector<int64_t> pieces, chains, later;
  int64_t first_kept = 0, count = 0;
  for (size_t s = 0; s < segments.size(); ++s) {
    const auto [begin, rows] = segments[s];
    const int64_t groups = (rows + kept - 1) / kept,
                  wanted = std::clamp(groups * blocks / share, int64_t{1}, groups),
                  each = (groups + wanted - 1) / wanted * kept;
    chains.insert(chains.end(), {begin, rows, count, each});
    for (int64_t at = 0; at < rows; at += each, ++count) {
      const int64_t there = std::min(each, rows - at);
      pieces.insert(pieces.end(), {begin + at, there, first_kept + at / kept, static_cast<int64_t>(s),
                                   (at == 0) + 2 * (at + each >= rows)});
      if (at > 0) later.insert(later.end(), {begin + at, there, count - 1, 0});
    }
    first_kept += groups;
  }
  const bool cut = !later.empty();
  return {count, cut, upload(pieces, device), upload(chains, device), cut ? upload(later, device) : Tensor()};
}

// The gradient of the state after each piece except the last of a segment, [pieces, N, D, D].
Tensor gradients_after(const Stream& stream, const Wkv7BackwardArgs& args, const Pieces& pieces);

}  // namespace wuneng::kernels::cuda
