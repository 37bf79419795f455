// Linear layers with many rows and bfloat16 weights, on AMX's tile products.
//
// The weights are what they are and a row is split in three parts (split_bf16.hpp), so every product
// is exact, as good as in float32; only the order of summing differs.
#pragma once

#include <vector>

#include "linear.hpp"
#include "split_bf16.hpp"
#include "tiles_amx.hpp"

namespace {

using namespace game_agent;

constexpr int64_t kFewestTileRowsLinear = 12;
constexpr int64_t kSumTiles = kSumInputs / kTileDepth;

// The rows of a part as tiles, in memory that a thread keeps.
class RowTiles {
 public:
  RowTiles(const LinearCall& call, int64_t first_row, int64_t last_row)
      : depth_(call.num_in / kTileDepth),
        count_((last_row - first_row + kTileSide - 1) / kTileSide) {
    thread_local std::vector<char> memory;
    const auto bytes = static_cast<size_t>(count_ * depth_ * kTileBytes);
    if (memory.size() < 3 * bytes + kRowBytes) memory.resize(3 * bytes + kRowBytes);
    const auto start = reinterpret_cast<uintptr_t>(memory.data());
    for (int part = 0; part < 3; ++part) {
      parts_[part] = memory.data() + (kRowBytes - start % kRowBytes) % kRowBytes + part * bytes;
    }
    for (int64_t r = 0; r < count_ * kTileSide; ++r) {
      const bool used = first_row + r < last_row;
      const float* x = call.x + (used ? first_row + r : first_row) * call.num_in;
      for (int64_t s = 0; s < depth_; ++s, x += kTileDepth) {
        const int64_t byte = (r / kTileSide * depth_ + s) * kTileBytes + r % kTileSide * kRowBytes;
        Vec first = Vec::load(x), second = Vec::load(x + Vec::kLanes);
        for (char* part : parts_) _mm512_store_si512(part + byte, take_part(first, second));
      }
    }
  }

  int64_t count() const { return count_; }
  int64_t depth() const { return depth_; }
  // The three parts of a tile of rows, from the first input on.
  struct Parts {
    const char* part[3];
  };
  Parts at(int64_t tile) const {
    const int64_t byte = tile * depth_ * kTileBytes;
    return {{parts_[0] + byte, parts_[1] + byte, parts_[2] + byte}};
  }

 private:
  int64_t depth_;
  int64_t count_;
  char* parts_[3];
};

inline const char* panel_tiles(const LinearCall& call, int64_t panel) {
  return static_cast<const char*>(call.panels) + panel * call.num_in * kPanelOutputs * 2;
}

// sums [2][2][16][16] of two tiles of rows and two panels, in pieces of kSumInputs inputs.
inline void multiply_panels(const RowTiles& rows, int64_t tile0, int64_t tile1, const char* panel0,
                            const char* panel1, float* sums) {
  alignas(64) float piece[4 * kTileSide * kTileSide];
  const RowTiles::Parts left0 = rows.at(tile0), left1 = rows.at(tile1);
  for (int64_t begin = 0; begin < rows.depth(); begin += kSumTiles) {
    const int64_t end = begin + kSumTiles < rows.depth() ? begin + kSumTiles : rows.depth();
    float* const to = begin == 0 ? sums : piece;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t s = begin; s < end; ++s) {
      multiply_2x2(left0.part, left1.part, s * kTileBytes, panel0, panel1);
    }
    _tile_stored(0, to, kRowBytes);
    _tile_stored(1, to + 256, kRowBytes);
    _tile_stored(2, to + 512, kRowBytes);
    _tile_stored(3, to + 768, kRowBytes);
    memory_barrier();
    if (begin == 0) continue;
    for (int i = 0; i < 4 * 256; i += Vec::kLanes) {
      (Vec::load(sums + i) + Vec::load(piece + i)).store(sums + i);
    }
    memory_barrier();
  }
}

// One tile of sums plus bias, as far as there are rows and outputs.
inline void write_tile(const LinearCall& call, const float* sums, int64_t row, int64_t last_row,
                       int64_t panel) {
  const int64_t output = panel * kPanelOutputs;
  const int64_t left = call.num_out - output;
  const int lanes = left < kPanelOutputs ? static_cast<int>(left) : kPanelOutputs;
  const Vec bias = call.bias == nullptr ? Vec::zero() : load_lanes(call.bias + output, lanes);
  for (int r = 0; r < kTileSide && row + r < last_row; ++r) {
    store_lanes(call.out + (row + r) * call.num_out + output,
                Vec::load(sums + r * kTileSide) + bias, lanes);
  }
}

inline void linear_tiles(const LinearCall& call, const LinearPart& part) {
  const RowTiles rows(call, part.first_row, part.last_row);
  const TileRegisters held;
  memory_barrier();
  alignas(64) float sums[4 * kTileSide * kTileSide];
  for (int64_t panel = part.first_panel; panel < part.last_panel; panel += 2) {
    const int64_t next_panel = panel + 1 < part.last_panel ? panel + 1 : panel;
    for (int64_t tile = 0; tile < rows.count(); tile += 2) {
      const int64_t next_tile = tile + 1 < rows.count() ? tile + 1 : tile;
      multiply_panels(rows, tile, next_tile, panel_tiles(call, panel),
                      panel_tiles(call, next_panel), sums);
      for (int i = 0; i < 4; ++i) {
        const int64_t row = part.first_row + (i < 2 ? tile : next_tile) * kTileSide;
        write_tile(call, sums + i * 256, row, part.last_row, i % 2 == 0 ? panel : next_panel);
      }
    }
  }
}

void linear_with_tiles(const LinearCall& call, const LinearPart& part, float* widened) {
  const bool takes = call.type == WeightType::bf16 && call.num_in > 0 &&
                     call.num_in % kTileDepth == 0 &&
                     part.last_row - part.first_row >= kFewestTileRowsLinear;
  if (takes) {
    linear_tiles(call, part);
  } else {
    linear(call, part, widened);
  }
}

}  // namespace
