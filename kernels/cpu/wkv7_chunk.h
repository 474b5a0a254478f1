// One chunk of one chain (a segment's state head) in decayed coordinates (docs/model.md; RWKV-7's chunked
// form).
//
// With g_t the sum of log w over the chunk's rows up to t, everything that meets at different rows is scaled
// to the chunk's start:
//   A_t = -kappa_t e^{g_{t-1}}    K_t = k_t e^{-g_t}    B_t = kappa_t rate_t e^{-g_t}    Q_t = r_t e^{g_t}
// so that S_t = (S_0 + sum_{j<=t} V_j K_j^T + U_j B_j^T) diag(e^{g_t}), where U_t = S_{t-1} (-kappa_t). With
// 16 rows g is above -9.8, so e^{-g} stays below 2e4 and f32 needs no centring.
//
// Letters: T rows, N state heads, D channels, W = D rounded up to 16. A chunk always has 16 rows and W
// channels: those beyond its own C rows and D channels are zero and add nothing. K and B, V and U lie one
// under the other, as they enter products.
#pragma once
#include <array>
#include <vector>

#include "kernels/cpu/wkv7_tile.h"
#include "kernels/wkv7.h"

namespace wuneng::kernels::cpu {

inline constexpr int64_t kC = wkv7_chunk;
static_assert(kC == 16, "wkv7_tile.h is written for chunks of 16 rows");
static_assert(wkv7_kept(DeviceKind::cpu) == kC, "every chunk finds its state in chunk_states");

struct Wkv7Chunk {
  explicit Wkv7Chunk(int64_t channels);
  // Rows [row, row + count) of state head n.
  void load(const Wkv7Inputs& in, int64_t row, int64_t count, int64_t n);
  // The same rows of removed, into U.
  void load_removed(const Tensor& removed, int64_t n);

  // Asks the cache for rows that are to come: a head's rows lie too far apart for the processor to guess.
  static void prefetch(const Wkv7Inputs& in, int64_t row, int64_t count, int64_t n);
  static void prefetch(const Tensor& x, int64_t row, int64_t count, int64_t h);

  // These rows of head h of x [T, heads, D] to or from [16, W]; scaled: times e^{g_t}.
  void load_rows(const Tensor& x, int64_t h, float* to) const;
  void load_scaled(const Tensor& x, int64_t h, float* to) const;
  void store_rows(const float* from, const Tensor& x, int64_t h) const;
  void store_scaled(const float* from, const Tensor& x, int64_t h) const;

  float* V() { return VU.data(); }
  float* U() { return VU.data() + kC * W; }
  // e^{g_t} [W]; t = -1 is before the chunk: 1.
  const float* scale(int64_t t) const { return grow.data() + (t + 1) * W; }
  const float* total() const { return scale(C - 1); }  // e^{G} of the whole chunk

  const int64_t D, W;
  int64_t row = 0, C = 0;
  Scratch grow;    // [17, W]: row t + 1 holds e^{g_t}
  Scratch shrink;  // [16, W]: e^{-g_t}
  Scratch A;       // [16, W]
  Scratch KB, VU;  // [32, W]: K over B, V over U
};

// Keeps of each half of pairs [16, 32] the entries j <= t, or j < t where strict: row t meets what rows up to
// t have written.
void keep_causal(float* pairs, bool strict);
// The same of pairs^T [32, 16].
void keep_causal_transposed(float* pairs, bool strict);

// States [D, D] to and from [W, W], whose other elements are left; undefined tensors: zeros, and nowhere to
// write.
void load_state(const Tensor& states, int64_t index, int64_t W, float* to);
void store_state(const float* from, int64_t W, const Tensor& states, int64_t index);
// states[index] as [W, W]: in place where D = W, else through scratch.
const float* wide_state(const Tensor& states, int64_t index, int64_t W, Scratch& scratch);
// Asks the cache for states[index].
void prefetch_state(const Tensor& states, int64_t index);

// The readers [begin, end) of each of N state heads.
std::vector<std::array<int, 2>> readers_of(const std::vector<int>& head_state, int64_t N);

// A chain: one state head along one segment.
struct Wkv7Chain {
  int64_t segment, head;
  int64_t begin, count;  // the segment's rows
  int64_t first_chunk;   // its first chunk in chunk_states
};
// The chains of which threads take their share: cut by the chunks they have, not by their number, since
// documents differ in length. `begin` and `end` are in units of one head's chunk, of N *
// wkv7_chunk_count(segments).
std::vector<Wkv7Chain> chains_between(const std::vector<Wkv7Segment>& segments, int64_t N, int64_t begin,
                                      int64_t end);

}  // namespace wuneng::kernels::cpu
