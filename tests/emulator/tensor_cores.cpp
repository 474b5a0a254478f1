// mma.sync: computed by the lanes of a warp, each of which holds its part of the operands and accumulators.
#include "cuda_runtime.h"

namespace emulator {
namespace {

constexpr int kWarp = 32;

// cvt.rna.tf32.f32: rounds to 10 mantissa bits, ties away from zero.
float tf32(float x) { return __int_as_float((__float_as_int(x) + 0x1000) & ~0x1fff); }

// Splits x into a sum of three tf32 numbers.
void split(float x, float (&parts)[3]) {
  for (float& part : parts) {
    part = tf32(x);
    x -= part;
  }
}

struct Pair {
  float first, second;
};

}  // namespace

void multiply_tile(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
  Pair held[3][kWarp];  // of every lane: a's and b's elements, two by two
  const Pair mine[3] = {{a[0], a[1]}, {a[2], a[3]}, {b[0], b[1]}};
  for (int i = 0; i < 3; ++i) {
    uint64_t bits;
    std::memcpy(&bits, &mine[i], sizeof bits);
    std::memcpy(held[i], gather(bits), sizeof held[i]);
  }
  const auto left = [&](int row, int k) {
    const Pair& p = held[k / 4][row % 8 * 4 + k % 4];
    return row < 8 ? p.first : p.second;
  };
  const auto right = [&](int k, int column) {
    const Pair& p = held[2][column * 4 + k % 4];
    return k < 4 ? p.first : p.second;
  };
  const int g = lane() / 4, t = lane() % 4;
  float x[2][8][3], y[2][8][3];  // the parts of this lane's rows and columns
  for (int half = 0; half < 2; ++half)
    for (int k = 0; k < 8; ++k) {
      split(left(g + half * 8, k), x[half][k]);
      split(right(k, 2 * t + half), y[half][k]);
    }
  // In the order of the kernel: one product of parts after another, each summed over the depth.
  constexpr int kParts[][2] = {{2, 0}, {1, 1}, {0, 2}, {1, 0}, {0, 1}, {0, 0}};
  for (const auto& [of_left, of_right] : kParts)
    for (int e = 0; e < 4; ++e)
      for (int k = 0; k < 8; ++k) d[e] += x[e / 2][k][of_left] * y[e % 2][k][of_right];
}

void mma_bf16(float (&d)[4], const unsigned (&a)[4], unsigned b_top, unsigned b_bottom) {
  uint64_t held[3][kWarp];  // of every lane: a's first and last two words, b's two
  const uint64_t mine[3] = {a[0] | uint64_t{a[1]} << 32, a[2] | uint64_t{a[3]} << 32,
                            b_top | uint64_t{b_bottom} << 32};
  for (int i = 0; i < 3; ++i) std::memcpy(held[i], gather(mine[i]), sizeof held[i]);
  const auto at = [&](int which, int lane_of, int element) {
    return __int_as_float(static_cast<int>(held[which][lane_of] >> 16 * element << 16));
  };
  const int g = lane() / 4, t = lane() % 4;
  for (int e = 0; e < 4; ++e)
    for (int k = 0; k < 16; ++k)
      d[e] += at(k / 8, g * 4 + k % 8 / 2, e / 2 * 2 + k % 2) *
              at(2, (2 * t + e % 2) * 4 + k % 8 / 2, k / 8 * 2 + k % 2);
}

}  // namespace emulator
