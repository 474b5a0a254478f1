// The backward's chains in pieces. Where there are few chains, their gradients' chains are run through alone
// first, which is the least that must be done one chunk after another (wkv7_chain.h), for the state's
// gradient after each piece; then all pieces' other gradients at once.
#pragma once
#include <algorithm>

#include "kernels/cuda/common/upload.h"
#include "kernels/wkv7.h"

namespace wuneng::kernels::cuda {

template <class T>
struct Reading {
  const T *dy, *r;  // [T, R, D]
  T* dr;            // null: not wanted
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
  bool cut;       // some segment has several
  Tensor pieces;  // [count, 5]: begin, rows, first kept state, segment, is it the segment's first + 2 last
  Tensor chains;  // [segments, 4]: begin, count, first piece, rows of each but the last
  Tensor
      later;  // [count - segments, 4]: of a segment's pieces but the first begin, rows, the piece before, 0
};

// Pieces of each segment as its share of `blocks`, N chains each, but of whole distances between kept states.
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

// The state's gradient after each piece but the segments' last, [pieces, N, D, D].
Tensor gradients_after(const Stream& stream, const Wkv7BackwardArgs& args, const Pieces& pieces);

}  // namespace wuneng::kernels::cuda
