// The matrix unit of x86 processors (AMX): products of tiles of bfloat16 with sums in float32.
#pragma once

#include "parts.h"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512VBMI2__) && defined(__linux__) && \
    !defined(SPARSELINEAR_DOUBLE)
#define SPARSELINEAR_AMX 1
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace sparselinear {

#ifdef SPARSELINEAR_AMX

// Asks the kernel of the system for the registers of the unit, which a process has to do once.
inline bool amx_permitted() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  static const bool permitted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return permitted;
}

// The registers of the unit, as eight tiles of 16 rows of 64 bytes, for as long as this lives. Others that
// use the unit set it up for themselves, as this does.
class TileRegisters {
 public:
  TileRegisters() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int t = 0; t < 8; ++t) {
      config.row_bytes[t] = 64;
      config.rows[t] = kTile;
    }
    _tile_loadconfig(&config);
  }
  ~TileRegisters() {
    _tile_release();
  }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

// Adds the products of part i of two strips of A and part j of two strips of B, of one depth, to the sums.
// Loads stand between products, that they hide behind them; what the products before had is not loaded again.
template <bool kLoadA, bool kLoadB>
__attribute__((always_inline)) inline void multiply_parts(const Bits* a0, const Bits* a1, int i,
                                                          const Bits* b0, const Bits* b1, int j) {
  if constexpr (kLoadA) _tile_loadd(4, a0 + i * kTileSize, 64);
  if constexpr (kLoadB) _tile_loadd(6, b0 + j * kTileSize, 64);
  _tile_dpbf16ps(0, 4, 6);
  if constexpr (!kLoadB) _tile_dpbf16ps(1, 4, 7);
  if constexpr (kLoadA) _tile_loadd(5, a1 + i * kTileSize, 64);
  _tile_dpbf16ps(2, 5, 6);
  if constexpr (kLoadB) {
    _tile_loadd(7, b1 + j * kTileSize, 64);
    _tile_dpbf16ps(1, 4, 7);
  }
  _tile_dpbf16ps(3, 5, 7);
}

// c (+)= A B, from two strips of A and two of B of so many tiles: 32 x 32 sums, as four tiles of 16 x 16, one
// after the other, the two upper ones first. Of the products of parts those are taken that count in the type
// of the sums: P of each number, with i + j < P.
template <int P>
inline void multiply_strips(const Bits* a0, const Bits* a1, const Bits* b0, const Bits* b1, int64_t tiles,
                            bool add, float* c) {
  constexpr int kSums = kTile * kTile, kBytes = kTile * sizeof(float);
  if (add) {
    _tile_loadd(0, c, kBytes);
    _tile_loadd(1, c + kSums, kBytes);
    _tile_loadd(2, c + 2 * kSums, kBytes);
    _tile_loadd(3, c + 3 * kSums, kBytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t t = 0; t < tiles; ++t) {
    if constexpr (P == 3) {
      multiply_parts<true, true>(a0, a1, 2, b0, b1, 0);
      multiply_parts<true, false>(a0, a1, 1, b0, b1, 0);
      multiply_parts<false, true>(a0, a1, 1, b0, b1, 1);
      multiply_parts<true, false>(a0, a1, 0, b0, b1, 1);
      multiply_parts<false, true>(a0, a1, 0, b0, b1, 2);
      multiply_parts<false, true>(a0, a1, 0, b0, b1, 0);
    } else if constexpr (P == 2) {
      multiply_parts<true, true>(a0, a1, 1, b0, b1, 0);
      multiply_parts<true, false>(a0, a1, 0, b0, b1, 0);
      multiply_parts<false, true>(a0, a1, 0, b0, b1, 1);
    } else {
      multiply_parts<true, true>(a0, a1, 0, b0, b1, 0);
    }
    a0 += P * kTileSize;
    a1 += P * kTileSize;
    b0 += P * kTileSize;
    b1 += P * kTileSize;
  }
  _tile_stored(0, c, kBytes);
  _tile_stored(1, c + kSums, kBytes);
  _tile_stored(2, c + 2 * kSums, kBytes);
  _tile_stored(3, c + 3 * kSums, kBytes);
}

#else

inline bool amx_permitted() {
  return false;
}

#endif

}  // namespace sparselinear
