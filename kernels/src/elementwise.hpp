// Norms, the gated activation, and RoPE with the write into pages. Rows are independent.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels.hpp"
#include "vec_math.hpp"

namespace {

using namespace game_agent;

GAME_AGENT_INLINE float inverse_rms(const float* x, int64_t dim, float eps) {
  Vec squares = Vec::zero();
  for_lanes(dim, [&](int64_t i, int n) {
    const Vec v = load_lanes(x + i, n);
    squares = Vec::fma(v, v, squares);
  });
  return 1.0f / std::sqrt(Vec::sum(squares) / static_cast<float>(dim) + eps);
}

GAME_AGENT_INLINE void norm_row(const float* x, const float* weight, float* out, int64_t dim,
                                float eps) {
  const Vec factor = Vec::all(inverse_rms(x, dim, eps));
  for_lanes(dim, [&](int64_t i, int n) {
    store_lanes(out + i, load_lanes(x + i, n) * factor * load_lanes(weight + i, n), n);
  });
}

void norm(const NormCall& call, int64_t first_row, int64_t last_row) {
  for (int64_t row = first_row; row < last_row; ++row) {
    const float* x = call.x + row * call.dim;
    if (call.residual != nullptr) {
      float* sum = call.sum + row * call.dim;
      const float* residual = call.residual + row * call.dim;
      for_lanes(call.dim, [&](int64_t i, int n) {
        store_lanes(sum + i, load_lanes(x + i, n) + load_lanes(residual + i, n), n);
      });
      x = sum;
    }
    norm_row(x, call.weight, call.out + row * call.dim, call.dim, call.eps);
  }
}

void silu_mul(const float* gate_up, float* out, int64_t inner, int64_t first_row,
              int64_t last_row) {
  const Vec one = Vec::all(1.0f);
  for (int64_t row = first_row; row < last_row; ++row) {
    const float* gate = gate_up + row * 2 * inner;
    for_lanes(inner, [&](int64_t i, int n) {
      const Vec g = load_lanes(gate + i, n);
      const Vec sigmoid = one / (one + exp2(g * Vec::all(-kLog2E)));
      store_lanes(out + row * inner + i, g * sigmoid * load_lanes(gate + inner + i, n), n);
    });
  }
}

void weigh_logits(const float* logits, int64_t count, float top, float temperature, float* out) {
  const Vec highest = Vec::all(top), divisor = Vec::all(temperature);
  for_lanes(count, [&](int64_t i, int n) {
    const Vec below = (load_lanes(logits + i, n) - highest) * Vec::all(kLog2E);
    store_lanes(out + i, exp2(below / divisor), n);
  });
}

GAME_AGENT_INLINE void norm_rotate(const RopeStoreCall& call, int64_t row, const float* from,
                                   const float* norm_weight, float* to) {
  const float* source = from;
  if (norm_weight != nullptr) {
    norm_row(from, norm_weight, to, call.dim, call.eps);
    source = to;
  }
  rotate_row(source, to, call.cos + row * call.half, call.sin + row * call.half, call.half,
             call.dim);
}

inline void put(float x, float* to) { *to = x; }

// To the nearest bfloat16, ties to even; NaN stays NaN.
inline void put(float x, uint16_t* to) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  *to = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

template <typename KV>
void rope_store_rows(const RopeStoreCall& call, int64_t first_row, int64_t last_row) {
  const int dim = call.dim;
  for (int64_t row = first_row; row < last_row; ++row) {
    const float* from = call.qkv + row * (call.heads + 2 * call.kv_heads) * dim;
    for (int h = 0; h < call.heads; ++h, from += dim) {
      norm_rotate(call, row, from, call.q_norm, call.q_out + (row * call.heads + h) * dim);
    }
    const int64_t page = call.slots[row] / kPageTokens * call.kv_heads;
    const int64_t place = call.slots[row] % kPageTokens;
    for (int h = 0; h < call.kv_heads; ++h, from += dim) {
      alignas(64) float key[kMaxDim];
      norm_rotate(call, row, from, call.k_norm, key);
      KV* to = static_cast<KV*>(call.keys) + (page + h) * dim * kPageTokens + place;
      for (int d = 0; d < dim; ++d) put(key[d], to + d * kPageTokens);
    }
    for (int h = 0; h < call.kv_heads; ++h, from += dim) {
      KV* to = static_cast<KV*>(call.values) + ((page + h) * kPageTokens + place) * dim;
      for (int d = 0; d < dim; ++d) put(from[d], to + d);
    }
  }
}

void rope_store(const RopeStoreCall& call, int64_t first_row, int64_t last_row) {
  if (call.type == PageType::f32) {
    rope_store_rows<float>(call, first_row, last_row);
  } else {
    rope_store_rows<uint16_t>(call, first_row, last_row);
  }
}

}  // namespace
