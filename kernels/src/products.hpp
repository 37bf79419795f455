// The two matrix products of attention, on blocks of rows whose sums stay in registers.
#pragma once

#include "kernels.hpp"
#include "vec_math.hpp"

namespace {

using namespace game_agent;

constexpr int kVecsPerPage = kPageTokens / Vec::kLanes;

// Scores of R rows with the keys of P pages.
template <int R, int P, typename KV>
GAME_AGENT_INLINE void score_block(const float* q, const KV* const* pages, int dim, float* scores) {
  constexpr int N = P * kVecsPerPage;
  Vec acc[R][N];
  GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
    GAME_AGENT_UNROLL for (int n = 0; n < N; ++n) acc[r][n] = Vec::zero();
  }
  for (int d = 0; d < dim; ++d) {
    Vec k[N];
    GAME_AGENT_UNROLL for (int n = 0; n < N; ++n) {
      k[n] = Vec::load(pages[n / kVecsPerPage] + d * kPageTokens +
                       n % kVecsPerPage * Vec::kLanes);
    }
    GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
      const Vec x = Vec::all(q[r * kRowStride + d]);
      GAME_AGENT_UNROLL for (int n = 0; n < N; ++n) acc[r][n] = Vec::fma(x, k[n], acc[r][n]);
    }
  }
  GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
    GAME_AGENT_UNROLL for (int n = 0; n < N; ++n) {
      acc[r][n].store(scores + r * kScoreStride + n * Vec::kLanes);
    }
  }
}

// acc[r] = acc[r] * factor[r] + weights[r] . values, for R rows and N vectors of dimensions, from first_dim
// on, over the first counts[page] keys of each page. With N = 1 the vector may be `lanes` wide.
template <int R, int N, typename KV>
GAME_AGENT_INLINE void value_block(const float* weights, const KV* const* values, int first_dim,
                                   const int* counts, int pages, int dim, int lanes,
                                   const float* factor, float* acc) {
  Vec sum[R][N];
  GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
    const Vec f = Vec::all(factor[r]);
    GAME_AGENT_UNROLL for (int n = 0; n < N; ++n) {
      sum[r][n] = Vec::load(acc + r * kRowStride + n * Vec::kLanes) * f;
    }
  }
  for (int page = 0; page < pages; ++page) {
    const KV* value = values[page] + first_dim;
    const float* weight = weights + page * kPageTokens;
    for (int t = 0; t < counts[page]; ++t) {
      Vec v[N];
      if (N == 1 && lanes < Vec::kLanes) {
        v[0] = Vec::load_first(value + t * dim, lanes);
      } else {
        GAME_AGENT_UNROLL for (int n = 0; n < N; ++n) {
          v[n] = Vec::load(value + t * dim + n * Vec::kLanes);
        }
      }
      GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
        const Vec w = Vec::all(weight[r * kScoreStride + t]);
        GAME_AGENT_UNROLL for (int n = 0; n < N; ++n) sum[r][n] = Vec::fma(w, v[n], sum[r][n]);
      }
    }
  }
  GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
    GAME_AGENT_UNROLL for (int n = 0; n < N; ++n) {
      sum[r][n].store(acc + r * kRowStride + n * Vec::kLanes);
    }
  }
}

}  // namespace
