// Scores of bfloat16 keys on products of 16-bit integers (VNNI): one product where pairs of
// bfloat16 numbers take two to be as good.
//
// A query is rounded to multiples of a power of two, with as many bits as its sum of absolute
// values allows, so that no sum of products can leave 32 bits: |q . k| <= sum |q| max |k| (Hölder).
// With 64 dimensions that is about 1e-4 of itself, a tenth of what rounding to bfloat16 costs. A
// key becomes integers of 13 bits under a power of two of its own: all that bfloat16 had, but for
// elements below 1/32 of its largest. Both depend on nothing but the query and the key, so a score
// is the same in any part; and the sum of two bfloat16 numbers holds such a query exactly, for
// parts with few rows.
#pragma once

#include "split_bf16.hpp"

namespace {

using namespace game_agent;

constexpr int kKeyBits = 13;
// What the elements of a query may add up to, each rounded up by a half.
constexpr float kQuerySum = (1 << (31 - kKeyBits)) - kMaxDim;
constexpr float kLargestQuery = 32767.0f;
constexpr int kFixedPages = Vec::kWide;

// Keys of some pages, [dim / 2] x 16 keys x 2 dimensions, and what a unit of each is worth.
struct alignas(64) FixedKeys {
  int32_t pairs[kFixedPages][kMaxDim / 2 * kPageTokens];
  float units[kFixedPages][kPageTokens];
};

GAME_AGENT_INLINE Vec first_of_pairs(__m512i x) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(x, 16))};
}

GAME_AGENT_INLINE Vec second_of_pairs(__m512i x) {
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  return {_mm512_castsi512_ps(_mm512_and_si512(x, high))};
}

// The power of two right above x >= 0, within what has an inverse; a NaN for infinity and a NaN.
GAME_AGENT_INLINE Vec power_above(Vec x) {
  const Vec n = Vec{_mm512_getexp_ps(x.v)} + Vec::all(1.0f);
  const Vec bounded = Vec::max(Vec::all(-100.0f), Vec::min(Vec::all(100.0f), n));
  return Vec::scale_by_power(Vec::all(1.0f), bounded) + (x - x);
}

// The largest absolute values of 16 keys. As integers, bfloat16 numbers without sign are in order.
inline Vec largest_of_keys(const uint16_t* page, int dim) {
  const __m512i no_sign = _mm512_set1_epi16(0x7fff);
  __m512i most = _mm512_setzero_si512();
  for (int d = 0; d < dim; d += 2) {
    const __m512i keys = _mm512_loadu_si512(page + d * kPageTokens);
    most = _mm512_max_epu16(most, _mm512_and_si512(keys, no_sign));
  }
  // Still as integers, so that a NaN, the largest of all, comes through.
  const __m512i x = in_pairs(most), high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  return {_mm512_castsi512_ps(_mm512_max_epu32(_mm512_slli_epi32(x, 16), _mm512_and_si512(x, high)))};
}

// A page [dim, 16] of bfloat16 as integers. The low bits of a float32 between 2^23 and 2^24 are a
// whole number, so one addition rounds.
inline void fix_keys(const uint16_t* page, int dim, int32_t* pairs, float* units) {
  const Vec unit = power_above(largest_of_keys(page, dim)) * Vec::all(1.0f / (1 << kKeyBits));
  unit.store(units);
  const Vec scale = Vec::all(1.0f) / unit;
  const Vec whole = Vec::all(1.5f * (1 << 23));
  for (int d = 0; d < dim; d += 2, pairs += kPageTokens) {
    const __m512i x = in_pairs(_mm512_loadu_si512(page + d * kPageTokens));
    const __m512i first = _mm512_castps_si512(Vec::fma(first_of_pairs(x), scale, whole).v);
    const __m512i second = _mm512_castps_si512(Vec::fma(second_of_pairs(x), scale, whole).v);
    const __m512i high = _mm512_slli_epi32(second, 16);
    _mm512_store_si512(pairs, _mm512_mask_mov_epi16(high, 0x55555555u, first));
  }
}

// What a unit of a query [dim] is worth, whatever its first `half` dimensions and the next ones are
// turned by: a pair of length r has parts up to r, that add up to sqrt(2) r at most. And r is at
// most the larger part and sqrt(2) - 1 of the smaller one, which nothing makes overflow.
inline float query_unit(const float* query, int half, int dim) {
  Vec sum = Vec::zero(), largest = Vec::zero();
  const auto note = [&](Vec size, float weight) {
    sum = Vec::fma(size, Vec::all(weight), sum);
    largest = Vec::max(largest, size);
  };
  for_lanes(half, [&](int64_t d, int n) {
    const Vec a = {_mm512_abs_ps(load_lanes(query + d, n).v)};
    const Vec b = {_mm512_abs_ps(load_lanes(query + half + d, n).v)};
    const Vec nan = (a - a) + (b - b);  // or 0
    note(Vec::fma(Vec::min(a, b), Vec::all(0.41421357f), Vec::max(a, b)) + nan, 1.41421357f);
  });
  for_lanes(dim - 2 * half, [&](int64_t d, int n) {
    note({_mm512_abs_ps(load_lanes(query + 2 * half + d, n).v)}, 1.0f);
  });
  const float by_sum = Vec::sum(sum) * (1.0f / kQuerySum);
  const float by_largest = Vec::highest(largest) * (1.0f / kLargestQuery);
  // Only the sum shows a NaN.
  alignas(64) float unit[Vec::kLanes];
  power_above(Vec::all(by_largest > by_sum ? by_largest : by_sum)).store(unit);
  return unit[0];
}

// The whole numbers nearest to the first n.
GAME_AGENT_INLINE void store_fixed(int16_t* to, Vec x, int n) {
  const auto used = static_cast<__mmask16>((1u << n) - 1);
  _mm256_mask_storeu_epi16(to, used, _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(x.v)));
}

GAME_AGENT_INLINE Vec load_fixed(const int16_t* from) {
  const __m256i wholes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return {_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(wholes))};
}

// Scores of R rows with P pages. `queries` are rows of `stride`, `query_units` one for each.
template <int R, int P>
GAME_AGENT_INLINE void score_fixed(const int16_t* queries, int64_t stride, const float* query_units,
                                   const FixedKeys& keys, int first_page, int dim, float* scores) {
  __m512i acc[R][P];
  GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
    GAME_AGENT_UNROLL for (int p = 0; p < P; ++p) acc[r][p] = _mm512_setzero_si512();
  }
  for (int d = 0; d < dim; d += 2) {
    __m512i k[P];
    GAME_AGENT_UNROLL for (int p = 0; p < P; ++p) {
      k[p] = _mm512_load_si512(keys.pairs[first_page + p] + d / 2 * kPageTokens);
    }
    GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
      const __m512i q = all_pairs(queries + r * stride + d);
      GAME_AGENT_UNROLL for (int p = 0; p < P; ++p) {
        acc[r][p] = _mm512_dpwssd_epi32(acc[r][p], q, k[p]);
      }
    }
  }
  GAME_AGENT_UNROLL for (int p = 0; p < P; ++p) {
    const Vec unit = Vec::load(keys.units[first_page + p]);
    GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
      const Vec score = {_mm512_cvtepi32_ps(acc[r][p])};
      const Vec units = unit * Vec::all(query_units[r]);
      (score * units).store(scores + r * kScoreStride + p * kPageTokens);
    }
  }
}

}  // namespace
