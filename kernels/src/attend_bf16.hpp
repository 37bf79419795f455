// Attention of one part (see kernels.hpp) over bfloat16 pages, on products of bfloat16 pairs.
//
// As attend.hpp, but a product takes two dimensions of a key, or the values of two keys, at once. A
// query is the sum of two bfloat16 numbers (split_bf16.hpp), so a score is as good as in float32 to
// 16 bits: rounding queries to one moved the bundled model's logits three times as far as the
// rounding of keys and values had. A weight is rounded to one. The sum of weights is that of the
// rounded ones, so they still add up to 1; and maxima are raised to whole powers of two, so a weight
// is rounded alike however keys are divided into parts.
#pragma once

#include <cmath>
#include <initializer_list>
#include <memory>

#include "attend.hpp"
#include "split_bf16.hpp"

namespace {

using namespace game_agent;

constexpr int kTilePairs = kTilePages * kPageTokens / 2;
// Rows are odd multiples of a cache line, as in Scratch.
constexpr int kQueryStride = kMaxDim + 32;
constexpr int kWeightStride = kTilePages * kPageTokens + 32;

// 16 pairs of bfloat16 numbers.
struct alignas(64) Pairs16 {
  uint16_t v[32];
};

// Working memory of one thread.
struct PairScratch {
  alignas(64) uint16_t queries[2][kTileRows * kQueryStride];  // high and low parts
  alignas(64) uint16_t weights[kTileRows * kWeightStride];
  Pairs16 values[kMaxDim / 16][kTilePairs];  // pairs of keys in 16 dimensions
};

inline PairScratch& pair_scratch() {
  thread_local const std::unique_ptr<PairScratch> memory(new PairScratch);
  return *memory;
}

GAME_AGENT_INLINE __m512i load_pairs(const Pairs16& from) { return _mm512_load_si512(from.v); }

// The pair at p, 16 times.
GAME_AGENT_INLINE __m512i all_pairs(const uint16_t* p) {
  return _mm512_set1_epi32(*reinterpret_cast<const int*>(p));
}

// sum + a[0] b[0] + a[1] b[1] in each lane.
GAME_AGENT_INLINE Vec add_products(Vec sum, __m512i a, __m512i b) {
  return {_mm512_dpbf16_ps(sum.v, (__m512bh)a, (__m512bh)b)};
}

// Scores of R rows with the keys of P pages. Two dimensions of a page's keys lie one after the other,
// together a cache line.
template <int R, int P>
GAME_AGENT_INLINE void score_pairs(const uint16_t* high, const uint16_t* low,
                                   const uint16_t* const* pages, int dim, float* scores) {
  Vec acc[R][P];
  GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
    GAME_AGENT_UNROLL for (int p = 0; p < P; ++p) acc[r][p] = Vec::zero();
  }
  for (int d = 0; d < dim; d += 2) {
    __m512i k[P];
    GAME_AGENT_UNROLL for (int p = 0; p < P; ++p) {
      k[p] = in_pairs(_mm512_loadu_si512(pages[p] + d * kPageTokens));
    }
    for (const uint16_t* part : {high, low}) {
      GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
        const __m512i q = all_pairs(part + r * kQueryStride + d);
        GAME_AGENT_UNROLL for (int p = 0; p < P; ++p) acc[r][p] = add_products(acc[r][p], q, k[p]);
      }
    }
  }
  GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
    GAME_AGENT_UNROLL for (int p = 0; p < P; ++p) {
      acc[r][p].store(scores + r * kScoreStride + p * kPageTokens);
    }
  }
}

// acc[r] = acc[r] * factor[r] + weights[r] . values, for R rows, N vectors of dimensions and the first
// `pairs` pairs of keys.
template <int R, int N>
GAME_AGENT_INLINE void add_value_pairs(const uint16_t* weights, const Pairs16 (*values)[kTilePairs],
                                       int pairs, const float* factor, float* acc) {
  Vec sum[R][N];
  GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
    const Vec f = Vec::all(factor[r]);
    GAME_AGENT_UNROLL for (int n = 0; n < N; ++n) {
      sum[r][n] = Vec::load(acc + r * kRowStride + n * Vec::kLanes) * f;
    }
  }
  for (int t = 0; t < pairs; ++t) {
    __m512i v[N];
    GAME_AGENT_UNROLL for (int n = 0; n < N; ++n) v[n] = load_pairs(values[n][t]);
    GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
      const __m512i w = all_pairs(weights + r * kWeightStride + 2 * t);
      GAME_AGENT_UNROLL for (int n = 0; n < N; ++n) sum[r][n] = add_products(sum[r][n], w, v[n]);
    }
  }
  GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
    GAME_AGENT_UNROLL for (int n = 0; n < N; ++n) {
      sum[r][n].store(acc + r * kRowStride + n * Vec::kLanes);
    }
  }
}

class PairWorker : public Worker<uint16_t> {
 public:
  PairWorker(const AttentionCall& call, const Part& part, Scratch& scratch)
      : Worker<uint16_t>(call, part, scratch), pairs_(pair_scratch()) {}

  void run() {
    for_tiles([this](const Tile<uint16_t>& tile) { attend_tile(tile); });
    write();
  }

 private:
  void attend_tile(const Tile<uint16_t>& tile) {
    for (int begin = 0; begin < tile.count;) {
      const int rotation = tile.pages[begin]->rotation;
      int end = begin + 1;
      while (end < tile.count && tile.pages[end]->rotation == rotation) ++end;
      if (rotation != rotation_) {
        rotate(rotation);
        split_queries();
      }
      score_pages(tile, begin, end);
      begin = end;
    }
    alignas(64) float factor[kTileRows + 16];
    for (int r = 0; r < rows_; r += Vec::kRowBlock) {
      weigh_rows(tile, r, least(Vec::kRowBlock, rows_ - r), factor + r);
    }
    for (int page = 0; page < tile.count; ++page) pair_values(tile, page);
    add_values(tile, factor);
  }

  void split_queries() {
    for (int r = 0; r < rows_; ++r) {
      for (int d = 0; d < call_.dim; d += 32) {
        const float* q = scratch_.q + r * kRowStride + d;
        const Split split = split_row(Vec::load(q), Vec::load(q + Vec::kLanes));
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
      for (int r = 0; r < rows_; r += Vec::kRowBlock) {
        fetch(tile.values + page, last - page, r);
        score_rows(tile, page, last, r);
      }
    }
  }

  // Scores of a block of rows with the pages [page, end), as many as fit the registers.
  void score_rows(const Tile<uint16_t>& tile, int page, int end, int first_row) {
    const int limit = block_limit(first_row);
    // Positions rise, so pages that this block cannot see come last (if not, they are masked).
    while (end > page && limit <= tile.pages[end - 1]->position) --end;
    const uint16_t* const high = pairs_.queries[0] + first_row * kQueryStride;
    const uint16_t* const low = pairs_.queries[1] + first_row * kQueryStride;
    float* const scores = scratch_.scores + first_row * kScoreStride;
    for_rows(least(Vec::kRowBlock, rows_ - first_row), [&](auto rows) {
      constexpr int R = decltype(rows)::value;
      const auto step = [&](auto wide) {
        constexpr int W = decltype(wide)::value;
        for (; page + W <= end; page += W) {
          score_pairs<R, W>(high, low, tile.keys + page, call_.dim, scores + page * kPageTokens);
        }
      };
      step(Count<kVectors<R>>());
      if constexpr (kVectors<R> > 2) step(Count<2>());
      step(Count<1>());
    });
  }

  // Scores become rounded weights; factor [rows] is what earlier sums have to be multiplied by.
  void weigh_rows(const Tile<uint16_t>& tile, int first_row, int count, float* factor) {
    const __m512i ones = _mm512_set1_epi16(0x3f80);
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
      const float* scores = scratch_.scores + r * kScoreStride;
      uint16_t* const weights = pairs_.weights + r * kWeightStride;
      const Vec top = Vec::all(scratch_.top[r]);
      Vec sum = Vec::zero();
      for (int j = 0; j < tile.count * kPageTokens; j += 2 * Vec::kLanes) {
        const __m512i pair = to_bf16(exp2(Vec::load(scores + j) - top),
                                     j + Vec::kLanes < tile.count * kPageTokens
                                         ? exp2(Vec::load(scores + j + Vec::kLanes) - top)
                                         : Vec::zero());
        _mm512_store_si512(weights + j, pair);
        sum = add_products(sum, pair, ones);
      }
      scratch_.total[r] = scratch_.total[r] * factor[i] + Vec::sum(sum);
    }
  }

  // The values of two keys side by side. Values that no row sees may never have been written: they
  // become 0.
  void pair_values(const Tile<uint16_t>& tile, int page) {
    const int dim = call_.dim;
    const int visible = visible_keys(highest_, *tile.pages[page]);
    const uint16_t* const values = tile.values[page];
    for (int d = 0; d < dim; d += 32) {
      const auto used = static_cast<__mmask32>(dim - d >= 32 ? ~0u : (1u << (dim - d)) - 1);
      Pairs16* const to = pairs_.values[d / 16] + page * kPageTokens / 2;
      for (int t = 0; t < kPageTokens; t += 2) {
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
                                pages * kPageTokens / 2, factor, acc + d);
        }
      };
      step(Count<kVectors<R>>());
      step(Count<1>());
    });
  }

  PairScratch& pairs_;
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
