// Shared by the two parts of the Hopper emulation (tensor_copies.cpp, warpgroup.cpp).
#pragma once
#include "cuda.h"

namespace emulator {

inline constexpr uint32_t kFirstShared = 1024;  // a block's first address of shared memory: see block.h

// The 128-byte swizzle of tensor copies and wgmma: within 1024 bytes, 16-byte piece p of 128-byte row r is at
// position p xor r.
constexpr uint32_t swizzle_128(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

char* seen_by_products();  // shared memory as the async proxy sees it
void begin_wgmma();

}  // namespace emulator
