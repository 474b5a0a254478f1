// wgmma: see cuda.h. Each thread computes its own accumulators; from other lanes it needs at most their
// registers of operand A.
#include <cstdio>
#include <cstdlib>
#include <deque>

#include "block.h"
#include "hopper.h"

namespace emulator {
namespace {

constexpr int kDepth = 16, kMostColumns = 256;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "emulator: wgmma: %s\n", what);
  std::abort();
}

float at_address(uint32_t address) {
  if (address < kFirstShared || address + 2 > kFirstShared + g_block.shared_size())
    fail("wgmma: a descriptor points outside the block's shared memory");
  uint16_t bits;
  std::memcpy(&bits, seen_by_products() + (address - kFirstShared), 2);
  return __int_as_float(bits << 16);
}

// PTX ISA, "Matrix Descriptor Format": lengths in units of 16 bytes.
struct Descriptor {
  uint32_t start, leading, stride;

  explicit Descriptor(uint64_t bits)
      : start((bits & 0x3fff) << 4), leading((bits >> 16 & 0x3fff) << 4), stride((bits >> 32 & 0x3fff) << 4) {
    if (bits >> 62 != 1) fail("only the 128-byte swizzle is emulated");
    if (bits >> 49 & 7) fail("only tiles at multiples of 1024 bytes are emulated");
  }
  // Element k of row (or column) i. K-major: 128 bytes hold 64 elements of a row, groups of eight rows are
  // `stride` apart. MN-major: 128 bytes hold the elements of 64 rows at one k, groups of eight k are `stride`
  // apart and groups of 64 rows `leading`.
  float operator()(int i, int k, bool transposed) const {
    const uint32_t offset = transposed ? i % 64 * 2 + i / 64 * leading + k % 8 * 128 + k / 8 * stride
                                       : k * 2 + i % 8 * 128 + i / 8 * stride;
    return at_address(swizzle_128(start + offset));
  }
};

struct Product {
  float* d;
  int n;
  bool from_registers, b_transposed, add;
  float a[2][kDepth];  // from registers: the thread's two rows
  uint64_t a_descriptor, b_descriptor;
  std::vector<float> start;  // accumulators before it, if it is the first pending product on d
};

struct Products {
  std::vector<Product> open;                // not committed yet
  std::deque<std::vector<Product>> groups;  // pending
  bool fenced = false;

  bool has(const float* d) const {
    for (const Product& p : open)
      if (p.d == d) return true;
    for (const auto& group : groups)
      for (const Product& p : group)
        if (p.d == d) return true;
    return false;
  }
};

std::vector<Products> g_products;  // by thread

Products& mine() { return g_products[g_block.current]; }

void take_away(Product& p) {
  p.start.assign(p.d, p.d + p.n / 2);
  std::memset(p.d, 0xff, p.start.size() * sizeof(float));
}

void compute(const Product& p) {
  const int lane = g_block.current % kWarp, warp = g_block.current / kWarp % 4;
  if (!p.start.empty()) std::copy(p.start.begin(), p.start.end(), p.d);
  float a[2][kDepth], b[kMostColumns / 4][kDepth];
  std::memcpy(a, p.a, sizeof a);
  if (!p.from_registers)
    for (int half = 0; half < 2; ++half)
      for (int k = 0; k < kDepth; ++k)
        a[half][k] = Descriptor(p.a_descriptor)(16 * warp + lane / 4 + 8 * half, k, false);
  const Descriptor of_b(p.b_descriptor);
  for (int c = 0; c < p.n / 4; ++c)
    for (int k = 0; k < kDepth; ++k) b[c][k] = of_b(c / 2 * 8 + lane % 4 * 2 + c % 2, k, p.b_transposed);
  for (int i = 0; i < p.n / 2; ++i) {
    float sum = p.add ? p.d[i] : 0;
    for (int k = 0; k < kDepth; ++k) sum += a[i / 2 % 2][k] * b[i / 4 * 2 + i % 2][k];
    p.d[i] = sum;
  }
}

}  // namespace

void begin_wgmma() { g_products.assign(g_block.threads.size(), {}); }

void wgmma_fence() { mine().fenced = true; }

void wgmma_commit() {
  Products& p = mine();
  p.groups.push_back(std::move(p.open));
  p.open.clear();
}

void wgmma_wait(int pending) {
  g_block.yield_to_others();
  Products& p = mine();
  p.fenced = false;
  while (static_cast<int>(p.groups.size()) > pending) {
    const std::vector<Product> group = std::move(p.groups.front());
    p.groups.pop_front();
    for (const Product& one : group) {
      compute(one);
      for (auto& later : p.groups)
        for (Product& other : later)
          if (other.d == one.d) fail("wgmma: accumulators were waited for that a later group adds to");
    }
  }
  gather(0);  // no lane continues before the products of the warp are computed
}

void wgmma(float* d, int n, const unsigned* a, uint64_t a_descriptor, uint64_t b_descriptor,
           bool b_transposed, bool add) {
  Products& p = mine();
  if (!p.fenced) fail("no fence before a product");
  if (n % 8 != 0 || n > kMostColumns) fail("wgmma: unsupported number of columns");
  Product product{d, n, a != nullptr, b_transposed, add, {}, a_descriptor, b_descriptor, {}};
  if (a) {  // as for mma_bf16: words 0 and 2 hold row g, 1 and 3 row g + 8
    for (int half = 0; half < 2; ++half) {
      const uint64_t* const words = gather(a[half] | uint64_t{a[2 + half]} << 32);
      for (int k = 0; k < kDepth; ++k)
        product.a[half][k] = __int_as_float(
            static_cast<int>(words[lane() / 4 * 4 + k % 8 / 2] >> (k / 8 * 32 + k % 2 * 16) << 16));
    }
  }
  if (!p.has(d)) take_away(product);
  p.open.push_back(std::move(product));
}

}  // namespace emulator
