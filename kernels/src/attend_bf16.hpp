// Attention of one part (see kernels.hpp) over bfloat16 pages, on products of 16-bit pairs.
//
// As attend.hpp, but a product takes two dimensions of a key, or the values of two keys, at once.
// With many rows, scores are products of integers (fixed_point.hpp); with few, of bfloat16 numbers,
// two of which are a query. A weight is rounded to bfloat16. The sum of weights is that of the
// rounded ones, so they still add up to 1; and maxima are raised to whole powers of two, so a
// weight is rounded alike however keys are divided into parts.
#pragma once

#include <cmath>
#include <memory>

#include "attend.hpp"
#include "products_bf16.hpp"

namespace {

using namespace game_agent;

// With fewer rows it takes longer to make integers of a page's keys than they save.
constexpr int kFixedRows = 8;

// Working memory of one thread.
struct PairScratch {
  alignas(64) uint16_t queries[2][kTileRows * kQueryStride];  // high and low parts
  alignas(64) uint16_t weights[kTileRows * kWeightStride];
  Pairs16 values[kMaxDim / 16][kTilePairs];  // pairs of keys in 16 dimensions
  alignas(64) int16_t fixed[kTileRows * kQueryStride];  // queries, and what a unit of each is worth
  float units[kTileRows];
  FixedKeys keys;
};

inline PairScratch& pair_scratch() {
  thread_local const std::unique_ptr<PairScratch> memory(new PairScratch);
  return *memory;
}

// 2^x to 3.5e-6 of itself, for x <= 0 or a NaN: enough for what is rounded to 8 bits. A polynomial
// through 2^f at the five Chebyshev nodes of [0, 1], f being what x has above a whole number.
GAME_AGENT_INLINE Vec weight_of(Vec x) {
  constexpr int kToFloor = 1;
  const Vec f = {_mm512_reduce_ps(x.v, kToFloor)};
  Vec p = Vec::all(1.36703095e-2f);
  p = Vec::fma(p, f, Vec::all(5.17449978e-2f));
  p = Vec::fma(p, f, Vec::all(0.241604357f));
  p = Vec::fma(p, f, Vec::all(0.692972922f));
  p = Vec::fma(p, f, Vec::all(1.00000349f));
  return Vec::scale_by_power(p, x);
}

class PairWorker : public Worker<uint16_t> {
 public:
  PairWorker(const AttentionCall& call, const Part& part, Scratch& scratch)
      : Worker<uint16_t>(call, part, scratch),
        pairs_(pair_scratch()),
        is_fixed_(head_rows_ >= kFixedRows) {
    fix_queries();
    for (int i = 0; i <= kTilePages; ++i) places_[i] = i * kPageTokens;
  }

  void run() {
    for_tiles([this](const Tile<uint16_t>& tile) { attend_tile(tile); });
    write();
  }

 protected:
  void attend_tile(const Tile<uint16_t>& tile) {
    place_pages(tile);
    for_rotations(tile, [&](int begin, int end) { score_pages(tile, begin, end); });
    alignas(64) float factor[kTileRows + 16];
    for (int r = 0; r < rows_; r += Vec::kRowBlock) {
      weigh_rows(tile, r, least(Vec::kRowBlock, rows_ - r), factor + r);
    }
    for (int page = 0; page < tile.count; ++page) pair_values(tile, page);
    add_values(tile, factor);
  }

  // Weights and values of a short page take no more room than the keys that some row sees, whole
  // pairs of them: there is less to multiply.
  void place_pages(const Tile<uint16_t>& tile) {
    for (int i = 0; i < tile.count; ++i) {
      places_[i + 1] = places_[i] + (visible_keys(highest_, *tile.pages[i]) + 1) / 2 * 2;
    }
  }

  // Calls score(begin, end) for the pages of a tile that the same angles turn, with queries turned
  // so.
  template <typename F>
  void for_rotations(const Tile<uint16_t>& tile, F score) {
    for (int begin = 0; begin < tile.count;) {
      const int rotation = tile.pages[begin]->rotation;
      int end = begin + 1;
      while (end < tile.count && tile.pages[end]->rotation == rotation) ++end;
      if (rotation != rotation_) {
        rotate_fixed(rotation);
        if (!is_fixed_) split_queries();
      }
      score(begin, end);
      begin = end;
    }
  }

  // Queries in units of their own, before rotation; what no rotation reaches as integers.
  void fix_queries() {
    const int fixed = 2 * call_.half;
    const float scale = call_.scale * kLog2E;
    for (int r = 0; r < rows_; ++r) {
      const float* from = scratch_.q_rows[r];
      float* to = scratch_.q + r * kRowStride;
      const float unit = query_unit(from, call_.half, call_.dim);
      pairs_.units[r] = unit * scale;
      const Vec factor = Vec::all(1.0f / unit);
      for_lanes(call_.dim, [&](int64_t d, int n) {
        store_lanes(to + d, load_lanes(from + d, n) * factor, n);
      });
      for_lanes(call_.dim - fixed, [&](int64_t d, int n) {
        store_fixed(pairs_.fixed + r * kQueryStride + fixed + d, load_lanes(to + fixed + d, n), n);
      });
    }
  }

  // As rotate(), to integers.
  void rotate_fixed(int rotation) {
    rotation_ = rotation;
    for_slots(rotation, [&](int first, int end, const float* all_cos, const float* all_sin) {
      for_lanes(call_.half, [&](int64_t i, int n) {
        const Vec cos = load_lanes(all_cos + i, n), sin = load_lanes(all_sin + i, n);
        for (int r = first; r < end; ++r) {
          const float* from = scratch_.q + r * kRowStride + i;
          int16_t* to = pairs_.fixed + r * kQueryStride + i;
          const Vec a = load_lanes(from, n), b = load_lanes(from + call_.half, n);
          store_fixed(to, a * cos - b * sin, n);
          store_fixed(to + call_.half, Vec::fma(b, cos, a * sin), n);
        }
      });
    });
  }

  void split_queries() {
    for (int r = 0; r < rows_; ++r) {
      for (int d = 0; d < call_.dim; d += 32) {
        const int16_t* q = pairs_.fixed + r * kQueryStride + d;
        const Split split = split_row(load_fixed(q), load_fixed(q + Vec::kLanes));
        _mm512_store_si512(pairs_.queries[0] + r * kQueryStride + d, split.high);
        _mm512_store_si512(pairs_.queries[1] + r * kQueryStride + d, split.low);
      }
    }
  }

  // Scores of all rows with the pages [begin, end) of a tile, a few pages at a time.
  void score_pages(const Tile<uint16_t>& tile, int begin, int end) {
    const int most_pages = rows_ <= Vec::kFewRows ? Vec::kWideFewRows : Vec::kWide;
    for (int page = begin; page < end; page += most_pages) {
      const int last = least(page + most_pages, end);
      for (int p = page; is_fixed_ && p < last; ++p) {
        fix_keys(tile.keys[p], call_.dim, pairs_.keys.pairs[p - page], pairs_.keys.units[p - page]);
      }
      for (int r = 0; r < rows_; r += Vec::kRowBlock) {
        fetch(tile.values + page, last - page, r);
        score_rows(tile, page, last, r);
      }
    }
  }

  // Scores of a block of rows with the pages [page, end), as many as fit the registers.
  void score_rows(const Tile<uint16_t>& tile, int page, int end, int first_row) {
    const int first = page, limit = block_limit(first_row);
    // Positions rise, so pages that this block cannot see come last (if not, they are masked).
    while (end > page && limit <= tile.pages[end - 1]->position) --end;
    for_rows(least(Vec::kRowBlock, rows_ - first_row), [&](auto rows) {
      constexpr int R = decltype(rows)::value;
      const auto step = [&](auto wide) {
        constexpr int W = decltype(wide)::value;
        for (; page + W <= end; page += W) score_block<R, W>(tile, page, page - first, first_row);
      };
      step(Count<kVectors<R>>());
      if constexpr (kVectors<R> > 2) step(Count<2>());
      step(Count<1>());
    });
  }

  // R rows with W pages, which are fixed as number `fixed_page` and those after it.
  template <int R, int W>
  GAME_AGENT_INLINE void score_block(const Tile<uint16_t>& tile, int page, int fixed_page,
                                     int first_row) {
    float* const scores = scratch_.scores + first_row * kScoreStride + page * kPageTokens;
    const float* const units = pairs_.units + first_row;
    const int at = first_row * kQueryStride;
    if (is_fixed_) {
      score_fixed<R, W>(pairs_.fixed + at, kQueryStride, units, pairs_.keys, fixed_page, call_.dim,
                        scores);
    } else {
      score_pairs<R, W>(pairs_.queries[0] + at, pairs_.queries[1] + at, units, tile.keys + page,
                        call_.dim, scores);
    }
  }

  // Scores become rounded weights; factor [rows] is what earlier sums have to be multiplied by.
  void weigh_rows(const Tile<uint16_t>& tile, int first_row, int count, float* factor) {
    alignas(64) float drop[16] = {};
    for (int i = 0; i < count; ++i) {
      const int r = first_row + i;
      const float before = scratch_.top[r];
      const float here = std::ceil(mask_row(tile, r));
      scratch_.top[r] = here > before ? here : before;
      drop[i] = before - scratch_.top[r];
    }
    exp2(Vec::load(drop)).store(factor);
    for (int i = 0; i < count; ++i) {
      const int r = first_row + i;
      scratch_.total[r] = scratch_.total[r] * factor[i] + weigh_row(r, tile.count);
    }
  }

  // The sum of the weights, two pages at a time. What is stored behind a short page is written over
  // by the next one.
  float weigh_row(int r, int num_pages) {
    const __m512i ones = _mm512_set1_epi16(0x3f80);
    const float* const scores = scratch_.scores + r * kScoreStride;
    uint16_t* const weights = pairs_.weights + r * kWeightStride;
    const Vec top = Vec::all(scratch_.top[r]);
    Vec sum = Vec::zero();
    for (int page = 0; page < num_pages; page += 2) {
      const float* const from = scores + page * kPageTokens;
      const bool two = page + 1 < num_pages;
      const Vec second = two ? weight_of(Vec::load(from + kPageTokens) - top) : Vec::zero();
      const __m512i pair = to_bf16(weight_of(Vec::load(from) - top), second);
      _mm512_storeu_si512(weights + places_[page], pair);
      if (two && places_[page + 1] != places_[page] + kPageTokens) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + places_[page + 1]),
                            _mm512_extracti64x4_epi64(pair, 1));
      }
      sum = add_products(sum, pair, ones);
    }
    return Vec::sum(sum);
  }

  // The values of two keys side by side. Values that no row sees may never have been written: they
  // become 0.
  void pair_values(const Tile<uint16_t>& tile, int page) {
    const int dim = call_.dim;
    const int visible = visible_keys(highest_, *tile.pages[page]);
    const uint16_t* const values = tile.values[page];
    for (int d = 0; d < dim; d += 32) {
      const auto used = static_cast<__mmask32>(dim - d >= 32 ? ~0u : (1u << (dim - d)) - 1);
      Pairs16* const to = pairs_.values[d / 16] + places_[page] / 2;
      for (int t = 0; t < visible; t += 2) {
        const __mmask32 first = t < visible ? used : 0, second = t + 1 < visible ? used : 0;
        const __m512i a = _mm512_maskz_loadu_epi16(first, values + t * dim + d);
        const __m512i b = _mm512_maskz_loadu_epi16(second, values + (t + 1) * dim + d);
        _mm512_store_si512(to[t / 2].v, pairs_of<0>(a, b));
        _mm512_store_si512(to[t / 2 + kTilePairs].v, pairs_of<1>(a, b));
      }
    }
  }

  // Adds the weighted values; a few dimensions at a time meet all rows.
  void add_values(const Tile<uint16_t>& tile, const float* factor) {
    const int wide = (rows_ <= Vec::kFewRows ? Vec::kWideFewRows : Vec::kWide) * Vec::kLanes;
    for (int d = 0; d < call_.dim; d += wide) {
      const int end = least(d + wide, call_.dim);
      const int first = kTilePages * d / call_.dim, last = kTilePages * end / call_.dim;
      for (int r = 0; r < rows_; r += Vec::kRowBlock) {
        fetch(tile.next_keys + first, last - first, r);
        add_values(tile, r, d, end, factor + r);
      }
    }
  }

  // Dimensions [d, end) of a block of rows.
  void add_values(const Tile<uint16_t>& tile, int first_row, int d, int end, const float* factor) {
    int pages = tile.count;
    while (pages > 0 && block_limit(first_row) <= tile.pages[pages - 1]->position) --pages;
    const uint16_t* const weights = pairs_.weights + first_row * kWeightStride;
    float* const acc = scratch_.acc + first_row * kRowStride;
    for_rows(least(Vec::kRowBlock, rows_ - first_row), [&](auto rows) {
      constexpr int R = decltype(rows)::value;
      const auto step = [&](auto wide) {
        constexpr int W = decltype(wide)::value;
        for (; d + (W - 1) * Vec::kLanes < end; d += W * Vec::kLanes) {
          add_value_pairs<R, W>(weights, pairs_.values + d / Vec::kLanes,
                                places_[pages] / 2, factor, acc + d);
        }
      };
      step(Count<kVectors<R>>());
      step(Count<1>());
    });
  }

  PairScratch& pairs_;
  const bool is_fixed_;  // scores come from products of integers
  int places_[kTilePages + 1];  // where the weights and values of a tile's pages begin
};

// Pages of float32 as attend() does, others on pairs.
void attend_with_pairs(const AttentionCall& call, PageType type, const Part& part,
                       Scratch& scratch) {
  if (type == PageType::f32) {
    attend(call, type, part, scratch);
  } else {
    PairWorker(call, part, scratch).run();
  }
}

}  // namespace
