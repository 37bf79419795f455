// Products of bfloat16 tiles in AMX registers: 16 rows of 64 bytes each.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

constexpr int kTileSide = 16;     // rows of a tile, and columns of a float32 one
constexpr int kTileDepth = 32;    // bfloat16 numbers in a row
constexpr int kTileBytes = 1024;  // 16 rows of 64 bytes
constexpr int kRowBytes = 64;

// A factor in two parts (see split_bf16.hpp), as tiles of kTileBytes one after another.
struct Tiles {
  const char* high;
  const char* low;
  Tiles at(int64_t tile) const { return {high + tile * kTileBytes, low + tile * kTileBytes}; }
};

// The compiler does not know that tile instructions touch memory.
inline void memory_barrier() { __asm__ volatile("" ::: "memory"); }

// Holds the tile registers while it lives: all eight of full size.
class TileRegisters {
 public:
  TileRegisters() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int i = 0; i < 8; ++i) {
      config.row_bytes[i] = kRowBytes;
      config.rows[i] = kTileSide;
    }
    memory_barrier();
    _tile_loadconfig(&config);
  }
  ~TileRegisters() { _tile_release(); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;
};

// sum[i][j] += left[i] . right[j] for two left and two right tiles; tiles 0 .. 3 hold the sums.
// With kExact the right factor has no low part.
template <bool kExact>
inline void multiply_2x2(Tiles left0, Tiles left1, Tiles right0, Tiles right1) {
  _tile_loadd(4, left0.high, kRowBytes);
  _tile_loadd(5, left1.high, kRowBytes);
  _tile_loadd(6, right0.high, kRowBytes);
  _tile_loadd(7, right1.high, kRowBytes);
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
  if constexpr (!kExact) {
    _tile_loadd(6, right0.low, kRowBytes);
    _tile_loadd(7, right1.low, kRowBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    _tile_loadd(6, right0.high, kRowBytes);
    _tile_loadd(7, right1.high, kRowBytes);
  }
  _tile_loadd(4, left0.low, kRowBytes);
  _tile_loadd(5, left1.low, kRowBytes);
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

// sum[i][j] += left[i] . right[j], where a left factor is the sum of all three of its parts.
inline void multiply_2x2(const char* const left0[3], const char* const left1[3], int64_t offset,
                         const char* right0, const char* right1) {
  _tile_loadd(6, right0 + offset, kRowBytes);
  _tile_loadd(7, right1 + offset, kRowBytes);
  for (int part = 0; part < 3; ++part) {
    _tile_loadd(4, left0[part] + offset, kRowBytes);
    _tile_loadd(5, left1[part] + offset, kRowBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

// The same as the first for one right tile: sums in tiles 0 and 2.
template <bool kExact>
inline void multiply_2x1(Tiles left0, Tiles left1, Tiles right) {
  _tile_loadd(4, left0.high, kRowBytes);
  _tile_loadd(5, left1.high, kRowBytes);
  _tile_loadd(6, right.high, kRowBytes);
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(2, 5, 6);
  if constexpr (!kExact) {
    _tile_loadd(7, right.low, kRowBytes);
    _tile_dpbf16ps(0, 4, 7);
    _tile_dpbf16ps(2, 5, 7);
  }
  _tile_loadd(4, left0.low, kRowBytes);
  _tile_loadd(5, left1.low, kRowBytes);
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(2, 5, 6);
}

}  // namespace
