// The two matrix products of attention over bfloat16 pages (see attend_bf16.hpp): as products.hpp,
// with pairs of 16-bit numbers.
#pragma once

#include <initializer_list>

#include "fixed_point.hpp"
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

GAME_AGENT_INLINE __m512i load_pairs(const Pairs16& from) { return _mm512_load_si512(from.v); }

// sum + a[0] b[0] + a[1] b[1] in each lane.
GAME_AGENT_INLINE Vec add_products(Vec sum, __m512i a, __m512i b) {
  return {_mm512_dpbf16_ps(sum.v, (__m512bh)a, (__m512bh)b)};
}

// Scores of R rows, each in units of its own, with the keys of P pages. Two dimensions of a page's
// keys lie one after the other, together a cache line.
template <int R, int P>
GAME_AGENT_INLINE void score_pairs(const uint16_t* high, const uint16_t* low, const float* units,
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
    const Vec unit = Vec::all(units[r]);
    GAME_AGENT_UNROLL for (int p = 0; p < P; ++p) {
      (acc[r][p] * unit).store(scores + r * kScoreStride + p * kPageTokens);
    }
  }
}

// acc[r] = acc[r] * factor[r] + weights[r] . values, for R rows, N vectors of dimensions and the
// first `pairs` pairs of keys.
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

}  // namespace
