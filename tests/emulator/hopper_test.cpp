// The emulator's tensor copies and wgmma against the layouts of CUTLASS, so that kernels and emulator cannot
// share a mistake: its canonical layouts (cute/atom/mma_traits_sm90_gmma.hpp, "Construction method for GMMA
// Descriptors") in units of elements, and its swizzle (cute/swizzle.hpp). Also tests that missing waits and
// fences are detected.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/cuda/common/tensor_map.h"
#include "kernels/cuda/common/tile_pipeline.h"
#include "kernels/cuda/common/wgmma.h"
#include "runtime/device_memory.h"

namespace wuneng::kernels::cuda::hopper_test {
namespace {

// Swizzle<3, 4, 3> of an offset in bytes: bits 4 to 6 xor bits 7 to 9.
int swizzle(int bytes) { return bytes ^ ((bytes & 0b1110000000) >> 3); }

// Layout_K_SW128_Atom<bf16> tiled to [rows, 64 panels]: ((8, rows / 8), (64, panels)) elements at
// ((64, 512), (1, 64 rows)).
int k_major(int row, int k, int rows) {
  return swizzle(2 * (row % 8 * 64 + row / 8 * 512 + k % 64 + k / 64 * 64 * rows));
}
// Layout_MN_SW128_Atom<bf16> tiled to [64 panels, depth]: ((64, panels), (8, depth / 8)) elements at
// ((1, 64 depth), (64, 512)).
int mn_major(int mn, int k, int depth) {
  return swizzle(2 * (mn % 64 + mn / 64 * 64 * depth + k % 8 * 64 + k / 8 * 512));
}

// Small integers, whose sums of products are exact.
struct Matrix {
  int columns;
  std::vector<float> x;

  Matrix(int rows, int columns_of, unsigned seed) : columns(columns_of), x(rows * columns_of) {
    std::mt19937 random(seed);
    for (float& value : x) value = static_cast<float>(static_cast<int>(random() % 15) - 7);
  }
  float operator()(int row, int column) const { return x[row * columns + column]; }
};

void put(char* at, float x) {
  const bf16 rounded(x);
  std::memcpy(at, &rounded, sizeof rounded);
}

// Runs body() in a warpgroup.
template <class F>
void in_a_warpgroup(int shared_bytes, F body) {
  emulator::run(nullptr, dim3(1), dim3(kWarpgroup), shared_bytes, body);
}

TEST(EmulatedDescriptor, HasTheFieldsThatCutlassGivesIt) {
  in_a_warpgroup(3 * 32 * 1024, [] {
    const SwizzledTile<128, 128> tile{wuneng::cuda::shared_memory<char>() + 32 * 1024};
    const uint64_t base = shared_address(tile.data);
    const auto field = [](uint64_t bits, int from, int count) { return bits >> from & ((1u << count) - 1); };
    const uint64_t of_k_major = tile.k_major(64, 5), of_mn_major = tile.mn_major(3);
    for (const uint64_t d : {of_k_major, of_mn_major}) {
      EXPECT_EQ(field(d, 62, 2), 1u);               // LayoutType::B128
      EXPECT_EQ(field(d, 49, 3), 0u);               // base_offset_
      EXPECT_EQ(field(d, 32, 14), 8 * 128u / 16u);  // stride_byte_offset_
    }
    EXPECT_EQ(field(of_k_major, 0, 14), (base + k_major(64, 80, 128)) / 16);  // a row whose swizzle is 0
    EXPECT_EQ(field(of_mn_major, 0, 14), (base + mn_major(0, 48, 128)) / 16);
    EXPECT_EQ(field(of_mn_major, 16, 14), 64 * 128 * 2u / 16u);  // leading_byte_offset_: the next 64 columns
  });
}

TEST(EmulatedWgmma, ScoresAreTheProductOfKMajorTiles) {
  constexpr int kDepth = 128, kColumns = 64;
  const Matrix a(128, kDepth, 1), b(kColumns, kDepth, 2);
  in_a_warpgroup((128 + kColumns) * kDepth * 2, [&] {
    const SwizzledTile<128, kDepth> of_a{wuneng::cuda::shared_memory<char>()};
    const SwizzledTile<kColumns, kDepth> of_b{of_a.data + of_a.kBytes};
    for (int row = threadIdx.x; row < 128; row += kWarpgroup)
      for (int k = 0; k < kDepth; ++k) {
        put(of_a.data + k_major(row, k, 128), a(row, k));
        if (row < kColumns) put(of_b.data + k_major(row, k, kColumns), b(row, k));
      }
    fence_proxy_async();
    __syncthreads();
    Accumulators<1, kColumns / 8> sums;
    wgmma_fence(sums);
    issue_scores(sums, of_a, 64, of_b);
    wgmma_commit();
    for (const auto& of_row : sums.of[0])
      for (const float x : of_row) EXPECT_TRUE(std::isnan(x));  // not waited for yet
    wgmma_wait<0>(sums);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int n = 0; n < kColumns / 8; ++n)
      for (int e = 0; e < 4; ++e) {
        const int row = 64 + 16 * warp + lane / 4 + e / 2 * 8, column = 8 * n + lane % 4 * 2 + e % 2;
        float expected = 0;
        for (int k = 0; k < kDepth; ++k) expected += a(row, k) * b(column, k);
        EXPECT_EQ(sums.of[0][n][e], expected) << row << ", " << column;
      }
  });
}

TEST(EmulatedWgmma, WeightedSumsAreTheProductWithAnMnMajorTile) {
  constexpr int kRows = 64, kColumns = 128;
  const Matrix a(64, kRows, 3), b(kRows, kColumns, 4);
  in_a_warpgroup(kRows * kColumns * 2, [&] {
    const SwizzledTile<kRows, kColumns> of_b{wuneng::cuda::shared_memory<char>()};
    for (int k = threadIdx.x; k < kRows; k += kWarpgroup)
      for (int column = 0; column < kColumns; ++column)
        put(of_b.data + mn_major(column, k, kRows), b(k, column));
    fence_proxy_async();
    __syncthreads();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const auto row_of = [&](int e) { return 16 * warp + lane / 4 + e / 2 * 8; };
    Accumulators<1, kRows / 8> left;
    for (int n = 0; n < kRows / 8; ++n)
      for (int e = 0; e < 4; ++e) left.of[0][n][e] = a(row_of(e), 8 * n + lane % 4 * 2 + e % 2);
    Weights<kRows / 16> weights;
    weights.take(left);
    Accumulators<1, kColumns / 8> sums;
    for (auto& of_row : sums.of[0])
      for (float& x : of_row) x = 5;
    wgmma_fence(sums);
    issue_weighted(sums, weights, of_b);
    wgmma_commit();
    wgmma_wait<0>(sums);
    for (int n = 0; n < kColumns / 8; ++n)
      for (int e = 0; e < 4; ++e) {
        float expected = 5;
        for (int k = 0; k < kRows; ++k) expected += a(row_of(e), k) * b(k, 8 * n + lane % 4 * 2 + e % 2);
        EXPECT_EQ(sums.of[0][n][e], expected);
      }
  });
}

TEST(EmulatedTensorCopy, LeavesKMajorTilesAndZerosOutside) {
  constexpr int kT = 40, kHeads = 3, kD = 128, kRows = 64, kMore = 8;
  const Matrix x(kT + 2 * kMore, kHeads * kD, 5);  // the tensor is in the middle of these rows
  const Tensor all = Tensor::from<float>(x.x, {kT + 2 * kMore, kHeads, kD}).to(DType::bf16);
  const Tensor on_device = all.to(Device{DeviceKind::cuda, 0}).rows(kMore, kMore + kT);
  const CUtensorMap map = map_of_rows(on_device, kRows);
  for (const int first : {10, -5}) {
    in_a_warpgroup(kRows * kD * 2 + 1024, [&] {
      char* const tile = wuneng::cuda::shared_memory<char>();
      const TilePipeline<1> pipeline{reinterpret_cast<uint64_t*>(tile + kRows * kD * 2)};
      if (threadIdx.x == 0) {
        pipeline.init(4);
        mbarrier_init_fence();
        tma_load(tile, map, pipeline.producer_acquire(0, kRows * kD * 2), {0, first, 0, kHeads - 1});
      }
      __syncthreads();
      pipeline.consumer_wait(0);
      for (int row = threadIdx.x; row < kRows; row += kWarpgroup)
        for (int c = 0; c < kD; ++c) {
          const int t = first + row;
          bf16 found;
          std::memcpy(&found, tile + k_major(row, c, kRows), 2);
          EXPECT_EQ(static_cast<float>(found), t >= 0 && t < kT ? x(kMore + t, (kHeads - 1) * kD + c) : 0)
              << row << ", " << c;
        }
    });
  }
}

using EmulatedHopperDeathTest = testing::Test;

TEST(EmulatedHopperDeathTest, MissingWaitsAndFencesAreReported) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto pipeline_of = [] { return TilePipeline<1>{wuneng::cuda::shared_memory<uint64_t>()}; };
  EXPECT_DEATH(in_a_warpgroup(1024, [&] { pipeline_of().consumer_wait(0); }), "before it is initialised");
  EXPECT_DEATH(in_a_warpgroup(1024,
                              [&] {
                                if (threadIdx.x == 0) pipeline_of().init(4);
                                __syncthreads();
                                pipeline_of().consumer_wait(0);
                              }),
               "before the fence of its initialisation");
  EXPECT_DEATH(in_a_warpgroup(1024,
                              [&] {
                                if (threadIdx.x == 0) pipeline_of().init(4), mbarrier_init_fence();
                                __syncthreads();
                                pipeline_of().consumer_wait(0);
                              }),
               "128 threads wait for a phase of a barrier in shared memory");
  EXPECT_DEATH(in_a_warpgroup(1024, [] { named_sync(1, 2 * kWarpgroup); }),
               "128 threads wait for a named barrier");
  EXPECT_DEATH(in_a_warpgroup(32 * 1024,
                              [] {
                                const SwizzledTile<64, 64> tile{wuneng::cuda::shared_memory<char>()};
                                Accumulators<1, 8> sums;
                                issue_scores(sums, tile, 0, tile);
                              }),
               "no fence before a product");
}

}  // namespace
}  // namespace wuneng::kernels::cuda::hopper_test
