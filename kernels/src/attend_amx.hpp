// Attention of one part (see kernels.hpp) with many rows, on AMX's tile products.
//
// As attend.hpp, but both matrix products run on tiles of bfloat16 pairs (split_bf16.hpp), and the
// keys are rotated instead of the queries: they pass through registers anyway when they are split, so
// a segment's distance costs the same however short the segment is.
#pragma once

#include <initializer_list>
#include <memory>

#include "attend.hpp"
#include "split_bf16.hpp"
#include "tiles_amx.hpp"

namespace {

using namespace game_agent;

// Below this many rows most of a tile would be empty, and converting keys would not pay.
constexpr int kFewestTileRows = 12;
constexpr int kRowTiles = kTileRows / kTileSide;
constexpr int kDepths = kTilePages * kPageTokens / kTileDepth;
constexpr int kMaxDimTiles = kMaxDim / kTileSide;

// Working memory of one thread; each factor's high tiles, then its low ones.
struct TileScratch {
  alignas(64) char queries[2][kRowTiles * kMaxDim / kTileDepth * kTileBytes];
  alignas(64) char keys[2][2 * kMaxDim / kTileDepth * kTileBytes];  // two pages
  alignas(64) char weights[2][kRowTiles * kDepths * kTileBytes];
  alignas(64) char values[2][kDepths * kMaxDimTiles * kTileBytes];
};

inline TileScratch& tile_scratch() {
  thread_local const std::unique_ptr<TileScratch> memory(new TileScratch);
  return *memory;
}

template <typename KV>
class TileWorker : public Worker<KV> {
 public:
  static bool takes(const AttentionCall& call, const Part& part) {
    const int group = call.heads / call.kv_heads;
    return part.last - part.first >= kFewestTileRows && call.dim % kTileDepth == 0 &&
           call.half % 2 == 0 &&
           part.rows[part.first / group].slot == part.rows[(part.last - 1) / group].slot;
  }

  TileWorker(const AttentionCall& call, const Part& part, Scratch& scratch)
      : Worker<KV>(call, part, scratch),
        tiles_(tile_scratch()),
        row_tiles_((this->rows_ + kTileSide - 1) / kTileSide),
        depth_tiles_(call.dim / kTileDepth) {
    split_queries();
  }

  void run() {
    const TileRegisters held;
    this->for_tiles([this](const Tile<KV>& tile) { attend_tile(tile); });
    this->write();
  }

 private:
  static constexpr bool kExactValues = sizeof(KV) == 2;  // bfloat16 already

  template <size_t N>
  static void put(char (&tiles)[2][N], int64_t byte, const Split& split) {
    _mm512_store_si512(tiles[0] + byte, split.high);
    _mm512_store_si512(tiles[1] + byte, split.low);
  }

  template <size_t N>
  static Tiles factor(char (&tiles)[2][N], int64_t tile) {
    return Tiles{tiles[0], tiles[1]}.at(tile);
  }

  // Two row tiles are worked on at once; the last one may be its own partner.
  int partner(int row_tile) const { return least(row_tile + 1, row_tiles_ - 1); }

  void split_queries() {
    const Vec scale = Vec::all(this->call_.scale * kLog2E);
    for (int r = 0; r < row_tiles_ * kTileSide; ++r) {
      const int64_t tile = static_cast<int64_t>(r / kTileSide) * depth_tiles_;
      for (int s = 0; s < depth_tiles_; ++s) {
        const int64_t byte = (tile + s) * kTileBytes + r % kTileSide * kRowBytes;
        if (r >= this->rows_) {
          put(tiles_.queries, byte, {_mm512_setzero_si512(), _mm512_setzero_si512()});
          continue;
        }
        const float* q = this->scratch_.q_rows[r] + s * kTileDepth;
        put(tiles_.queries, byte,
            split_row(Vec::load(q) * scale, Vec::load(q + Vec::kLanes) * scale));
      }
    }
  }

  void attend_tile(const Tile<KV>& tile) {
    for (int page = 0; page < tile.count; page += 2) {
      const bool two = page + 1 < tile.count;
      split_keys(tile, page, 0);
      if (two) split_keys(tile, page + 1, 1);
      score(page, two);
    }
    bool moved = false;
    alignas(64) float shrink[kTileRows];
    for (int r = 0; r < this->rows_; r += kTileSide) {
      const int count = least(kTileSide, this->rows_ - r);
      this->weigh_rows(tile, r, count, shrink + r);
      for (int i = r; i < r + count; ++i) moved |= !(shrink[i] == 1.0f);
    }
    if (moved) rescale(shrink);
    split_weights(tile.count);
    split_values(tile);
    add_values(tile.count);
  }

  // A page of keys turned back by the page's distance: q R(-a) k = (R(a) q) k.
  void split_keys(const Tile<KV>& tile, int page, int place) {
    const AttentionCall& call = this->call_;
    const KV* keys = tile.keys[page];
    const int half = call.half;
    const int64_t angle = static_cast<int64_t>(call.rotations[tile.pages[page]->rotation]) * half;
    const float* cos = call.cos + angle;
    const float* sin = call.sin + angle;
    const int64_t begin = static_cast<int64_t>(place) * depth_tiles_ * kTileBytes;
    const int ahead = page + 2 - tile.count;
    const KV* next = ahead < 0 ? tile.keys[page + 2] : tile.next_keys[ahead];
    const auto key = [&](int d) { return Vec::load(keys + d * kPageTokens); };
    for (int d = 0; d < half; d += 2) {
      Vec low[2], high[2];
      for (int i : {d, d + 1, d + half, d + half + 1}) {
        fetch_line(next + i * kPageTokens);
        fetch_line(tile.values[page] + i * kPageTokens);
      }
      for (int i = 0; i < 2; ++i) {
        const Vec a = key(d + i), b = key(d + i + half);
        const Vec c = Vec::all(cos[d + i]), s = Vec::all(sin[d + i]);
        low[i] = Vec::fma(a, c, b * s);
        high[i] = b * c - a * s;
      }
      put(tiles_.keys, begin + d / 2 * kRowBytes, split_pairs(low[0], low[1]));
      put(tiles_.keys, begin + (d + half) / 2 * kRowBytes, split_pairs(high[0], high[1]));
    }
    for (int d = 2 * half; d < call.dim; d += 2) {
      put(tiles_.keys, begin + d / 2 * kRowBytes, split_pairs(key(d), key(d + 1)));
    }
  }

  // Scores of all rows with one or two pages.
  void score(int page, bool two) {
    memory_barrier();
    constexpr int kStride = kScoreStride * sizeof(float);
    float* const scores = this->scratch_.scores + page * kPageTokens;
    for (int r = 0; r < row_tiles_; r += 2) {
      float* const here = scores + r * kTileSide * kScoreStride;
      float* const next = scores + partner(r) * kTileSide * kScoreStride;
      const Tiles left0 = factor(tiles_.queries, r * depth_tiles_);
      const Tiles left1 = factor(tiles_.queries, partner(r) * depth_tiles_);
      const Tiles right0 = factor(tiles_.keys, 0), right1 = factor(tiles_.keys, depth_tiles_);
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int s = 0; s < depth_tiles_; ++s) {
        if (two) {
          multiply_2x2<false>(left0.at(s), left1.at(s), right0.at(s), right1.at(s));
        } else {
          multiply_2x1<false>(left0.at(s), left1.at(s), right0.at(s));
        }
      }
      _tile_stored(0, here, kStride);
      _tile_stored(2, next, kStride);
      if (two) {
        _tile_stored(1, here + kPageTokens, kStride);
        _tile_stored(3, next + kPageTokens, kStride);
      }
    }
    memory_barrier();
  }

  void rescale(const float* shrink) {
    for (int r = 0; r < this->rows_; ++r) {
      float* acc = this->scratch_.acc + r * kRowStride;
      const Vec f = Vec::all(shrink[r]);
      for (int d = 0; d < this->call_.dim; d += Vec::kLanes) (Vec::load(acc + d) * f).store(acc + d);
    }
  }

  void split_weights(int pages) {
    const int depths = (pages + 1) / 2;
    for (int r = 0; r < row_tiles_ * kTileSide; ++r) {
      const float* weights = this->scratch_.scores + r * kScoreStride;
      for (int k = 0; k < depths; ++k) {
        const int64_t tile = static_cast<int64_t>(r / kTileSide) * kDepths + k;
        const bool used = r < this->rows_;
        const bool second = used && 2 * k + 1 < pages;
        const Vec a = used ? Vec::load(weights + k * kTileDepth) : Vec::zero();
        const Vec b = second ? Vec::load(weights + k * kTileDepth + kPageTokens) : Vec::zero();
        put(tiles_.weights, tile * kTileBytes + r % kTileSide * kRowBytes, split_row(a, b));
      }
    }
  }

  // Values that no row sees may never have been written: they become 0.
  void split_values(const Tile<KV>& tile) {
    const int dim = this->call_.dim;
    const int dim_tiles = dim / kTileSide;
    for (int page = 0; page < (tile.count + 1) / 2 * 2; ++page) {
      const bool used = page < tile.count;
      const int visible = used ? visible_keys(this->highest_, *tile.pages[page]) : 0;
      const KV* values = used ? tile.values[page] : nullptr;
      for (int t = 0; t < kPageTokens; t += 2) {
        const int row = page % 2 * (kPageTokens / 2) + t / 2;
        for (int d = 0; d < dim_tiles; ++d) {
          const KV* at = values + t * dim + d * kTileSide;
          const Vec a = t < visible ? Vec::load(at) : Vec::zero();
          const Vec b = t + 1 < visible ? Vec::load(at + dim) : Vec::zero();
          const int64_t to = static_cast<int64_t>(page / 2) * dim_tiles + d;
          put(tiles_.values, to * kTileBytes + row * kRowBytes, split_pairs(a, b));
        }
      }
    }
  }

  void add_values(int pages) {
    memory_barrier();
    constexpr int kStride = kRowStride * sizeof(float);
    const int depths = (pages + 1) / 2;
    const int dim_tiles = this->call_.dim / kTileSide;
    for (int r = 0; r < row_tiles_; r += 2) {
      for (int d = 0; d < dim_tiles; d += 2) {
        float* const here = this->scratch_.acc + r * kTileSide * kRowStride + d * kTileSide;
        float* const next = this->scratch_.acc + partner(r) * kTileSide * kRowStride + d * kTileSide;
        _tile_loadd(0, here, kStride);
        _tile_loadd(1, here + kTileSide, kStride);
        _tile_loadd(2, next, kStride);
        _tile_loadd(3, next + kTileSide, kStride);
        for (int k = 0; k < depths; ++k) {
          const int64_t column = static_cast<int64_t>(k) * dim_tiles + d;
          multiply_2x2<kExactValues>(factor(tiles_.weights, r * kDepths + k),
                                     factor(tiles_.weights, partner(r) * kDepths + k),
                                     factor(tiles_.values, column), factor(tiles_.values, column + 1));
        }
        _tile_stored(0, here, kStride);
        _tile_stored(1, here + kTileSide, kStride);
        _tile_stored(2, next, kStride);
        _tile_stored(3, next + kTileSide, kStride);
      }
    }
    memory_barrier();
  }

  TileScratch& tiles_;
  const int row_tiles_;
  const int depth_tiles_;
};

// Parts of many rows on tiles, others as attend() does.
template <typename KV>
void attend_pages(const AttentionCall& call, const Part& part, Scratch& scratch) {
  if (TileWorker<KV>::takes(call, part)) {
    TileWorker<KV>(call, part, scratch).run();
  } else {
    Worker<KV>(call, part, scratch).run();
  }
}

void attend_with_tiles(const AttentionCall& call, PageType type, const Part& part,
                       Scratch& scratch) {
  if (type == PageType::f32) {
    attend_pages<float>(call, part, scratch);
  } else {
    attend_pages<uint16_t>(call, part, scratch);
  }
}

}  // namespace
