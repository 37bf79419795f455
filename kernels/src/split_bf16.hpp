// Float32 as the sum of two or three bfloat16 numbers, laid out for products of pairs.
//
// x = high + low with |x - high - low| <= 2^-17 |x|. Of the four partial products of two such sums
// the three large ones are kept, so a product is off by about 2^-16 of itself, in random directions:
// the idea of oneDNN's and cuBLAS's "bf16x3" modes. With a third part nothing of x is lost.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "vec_avx512.hpp"
#include "vec_math.hpp"

namespace {

// 32 bfloat16 numbers each.
struct Split {
  __m512i high;
  __m512i low;
};

// The pair at p, 16 times.
GAME_AGENT_INLINE __m512i all_pairs(const void* p) {
  int pair;
  std::memcpy(&pair, p, sizeof pair);
  return _mm512_set1_epi32(pair);
}

GAME_AGENT_INLINE __m512i to_bf16(Vec first, Vec second) {
  return (__m512i)_mm512_cvtne2ps_pbh(second.v, first.v);
}

// The bfloat16 numbers nearest to first[0 .. 15] and then second[0 .. 15], which keep the rest: a row
// of the left factor.
GAME_AGENT_INLINE __m512i take_part(Vec& first, Vec& second) {
  const __m512i part = to_bf16(first, second);
  const __m512i a = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(part));
  const __m512i b = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(part, 1));
  first = first - Vec{_mm512_castsi512_ps(_mm512_slli_epi32(a, 16))};
  second = second - Vec{_mm512_castsi512_ps(_mm512_slli_epi32(b, 16))};
  return part;
}

GAME_AGENT_INLINE Split split_row(Vec first, Vec second) {
  const __m512i high = take_part(first, second);
  return {high, to_bf16(first, second)};
}

// x[0], x[16], x[1], x[17] ... x[15], x[31].
GAME_AGENT_INLINE __m512i in_pairs(__m512i x) {
  const __m512i order = _mm512_set_epi16(
      31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19,
      3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, x);
}

// a[0], b[0], a[1], b[1] ... of the first (0) or second (1) half of the numbers.
template <int Half>
GAME_AGENT_INLINE __m512i pairs_of(__m512i a, __m512i b) {
  const __m512i order = _mm512_set_epi16(
      47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35,
      3, 34, 2, 33, 1, 32, 0);
  const __m512i from = _mm512_set1_epi16(16 * Half);
  return _mm512_permutex2var_epi16(a, _mm512_add_epi16(order, from), b);
}

// first[0], second[0], first[1], second[1] ...: a row of the right factor, where a tile product takes
// the two numbers of a pair together.
GAME_AGENT_INLINE Split split_pairs(Vec first, Vec second) {
  const __m512i high = in_pairs(to_bf16(first, second));
  const __m512i a = _mm512_slli_epi32(high, 16);
  const __m512i b = _mm512_and_si512(high, _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
  const __m512i low = to_bf16(first - Vec{_mm512_castsi512_ps(a)},
                              second - Vec{_mm512_castsi512_ps(b)});
  return {high, in_pairs(low)};
}

}  // namespace
