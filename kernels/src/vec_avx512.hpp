// 16 floats in an AVX-512 register.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels.hpp"

namespace {

struct Vec {
  static constexpr int kLanes = 16;
  static constexpr int kRowBlock = 8;  // rows held in registers
  static constexpr int kWide = 2;      // vectors per row with a full block ...
  static constexpr int kFewRows = 4;   // ... and with at most so many rows
  static constexpr int kWideFewRows = 4;
  static constexpr int kWideLinear = 3;  // vectors per row with a full block in a linear layer

  __m512 v;

  static Vec zero() { return {_mm512_setzero_ps()}; }
  static Vec all(float x) { return {_mm512_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec load(const uint16_t* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
  }
  static Vec load(const game_agent::Half* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static Vec load(const int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
  }
  // kLanes pairs of bfloat16 numbers.
  struct Pairs {
    __m512i v;
    static Pairs load(const uint16_t* p) { return {_mm512_loadu_si512(p)}; }
    Vec first() const { return {_mm512_castsi512_ps(_mm512_slli_epi32(v, 16))}; }
    Vec second() const {
      const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
      return {_mm512_castsi512_ps(_mm512_and_si512(v, high))};
    }
  };
  static Vec load_first(const float* p, int n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
  static Vec load_first(const uint16_t* p, int n) {
    alignas(32) uint16_t part[kLanes] = {};
    for (int i = 0; i < n; ++i) part[i] = p[i];
    return load(part);
  }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store_first(float* p, int n) const { _mm512_mask_storeu_ps(p, first(n), v); }

  friend Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
  friend Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
  // a * b + c
  static Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  // A NaN in the second argument comes through.
  static Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
  static Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
  // Lanes below n from a, the others from b.
  static Vec first_of(int n, Vec a, Vec b) { return {_mm512_mask_blend_ps(first(n), b.v, a.v)}; }
  // a where x >= bound or is NaN, else 0.
  static Vec where_not_below(Vec x, Vec bound, Vec a) {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, bound.v, _CMP_NLT_UQ), a.v)};
  }
  static Vec round(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT)}; }
  // a * 2^n for whole n.
  static Vec scale_by_power(Vec a, Vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }
  static float sum(Vec a) { return _mm512_reduce_add_ps(a.v); }
  static float highest(Vec a) { return _mm512_reduce_max_ps(a.v); }

 private:
  static __mmask16 first(int n) {
    return static_cast<__mmask16>(n >= kLanes ? 0xffff : (1u << (n > 0 ? n : 0)) - 1u);
  }
};

}  // namespace
