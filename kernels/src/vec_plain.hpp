// 8 floats in plain C++; the compiler makes NEON or SSE of the loops.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels.hpp"

namespace {

struct Vec {
  static constexpr int kLanes = 8;
  static constexpr int kRowBlock = 4;
  static constexpr int kWide = 2;
  static constexpr int kFewRows = 2;
  static constexpr int kWideFewRows = 2;
  static constexpr int kWideLinear = 2;

  float v[kLanes];

  template <typename F>
  static Vec make(F value) {
    Vec out;
    for (int i = 0; i < kLanes; ++i) out.v[i] = value(i);
    return out;
  }
  static float widen(uint16_t x) {
    const uint32_t bits = static_cast<uint32_t>(x) << 16;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
  }

  // Exponent and fraction move to float32's places, where the exponent counts from 112 lower;
  // infinity and NaN keep the highest exponent.
  static float widen(game_agent::Half x) {
    const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fff) << 13;
    const uint32_t bits = magnitude >= 0x0f800000 ? magnitude | 0x7f800000 : magnitude;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    if (magnitude < 0x0f800000) out *= 5.192296858534828e33f;  // 2^112
    return x.bits & 0x8000 ? -out : out;
  }

  static Vec zero() { return all(0.0f); }
  static Vec all(float x) {
    return make([&](int) { return x; });
  }
  static Vec load(const float* p) {
    return make([&](int i) { return p[i]; });
  }
  static Vec load(const uint16_t* p) {
    return make([&](int i) { return widen(p[i]); });
  }
  static Vec load(const game_agent::Half* p) {
    return make([&](int i) { return widen(p[i]); });
  }
  static Vec load(const int8_t* p) {
    return make([&](int i) { return static_cast<float>(p[i]); });
  }
  // kLanes pairs of bfloat16 numbers.
  struct Pairs {
    const uint16_t* p;
    static Pairs load(const uint16_t* p) { return {p}; }
    Vec first() const {
      return make([&](int i) { return widen(p[2 * i]); });
    }
    Vec second() const {
      return make([&](int i) { return widen(p[2 * i + 1]); });
    }
  };
  static Vec load_first(const float* p, int n) {
    return make([&](int i) { return i < n ? p[i] : 0.0f; });
  }
  static Vec load_first(const uint16_t* p, int n) {
    return make([&](int i) { return i < n ? widen(p[i]) : 0.0f; });
  }
  void store(float* p) const {
    for (int i = 0; i < kLanes; ++i) p[i] = v[i];
  }
  void store_first(float* p, int n) const {
    for (int i = 0; i < n; ++i) p[i] = v[i];
  }

  friend Vec operator+(Vec a, Vec b) {
    return make([&](int i) { return a.v[i] + b.v[i]; });
  }
  friend Vec operator-(Vec a, Vec b) {
    return make([&](int i) { return a.v[i] - b.v[i]; });
  }
  friend Vec operator*(Vec a, Vec b) {
    return make([&](int i) { return a.v[i] * b.v[i]; });
  }
  friend Vec operator/(Vec a, Vec b) {
    return make([&](int i) { return a.v[i] / b.v[i]; });
  }
  // a * b + c
  static Vec fma(Vec a, Vec b, Vec c) {
    return make([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
  }
  // A NaN in the second argument comes through.
  static Vec max(Vec a, Vec b) {
    return make([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static Vec min(Vec a, Vec b) {
    return make([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  // Lanes below n from a, the others from b.
  static Vec first_of(int n, Vec a, Vec b) {
    return make([&](int i) { return i < n ? a.v[i] : b.v[i]; });
  }
  // a where x >= bound or is NaN, else 0.
  static Vec where_not_below(Vec x, Vec bound, Vec a) {
    return make([&](int i) { return x.v[i] < bound.v[i] ? 0.0f : a.v[i]; });
  }
  static Vec round(Vec a) {
    // Adding and taking away 1.5 * 2^23 leaves the nearest whole number, for |a| < 2^22.
    constexpr float magic = 12582912.0f;
    return make([&](int i) { return (a.v[i] + magic) - magic; });
  }
  // a * 2^n for whole n in -126 ... 127.
  static Vec scale_by_power(Vec a, Vec n) {
    return make([&](int i) {
      const float power = n.v[i] == n.v[i] ? n.v[i] : 0.0f;
      const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(power) + 127) << 23;
      float factor;
      std::memcpy(&factor, &bits, sizeof factor);
      return a.v[i] * factor;
    });
  }
  static float sum(Vec a) {
    float out = 0.0f;
    for (int i = 0; i < kLanes; ++i) out += a.v[i];
    return out;
  }
  static float highest(Vec a) {
    float out = a.v[0];
    for (int i = 1; i < kLanes; ++i) out = a.v[i] > out ? a.v[i] : out;
    return out;
  }
};

}  // namespace
