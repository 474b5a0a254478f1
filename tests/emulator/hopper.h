// What the two halves of Hopper's emulation (tensor_copies.cpp, warpgroup.cpp) have in common.
#pragma once
#include "cuda.h"

namespace emulator {

inline constexpr uint32_t kFirstShared = 1024;  // a block's first address of shared memory: see block.h

// 128-byte swizzle, of tensor copies and products alike: within 1024 bytes, 16-byte piece p of the 128-byte
// row r lies where piece p xor r would.
constexpr uint32_t swizzle_128(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

char* seen_by_products();  // shared memory as tensor copies and fences left it
void begin_wgmma();

}  // namespace emulator
