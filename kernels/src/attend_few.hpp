// Attention of one part over bfloat16 pages for a few rows of each head: a token of a reply.
//
// Every key and value is used once for each row, so memory decides. Pages hold their heads one
// after another: all heads of a page are read before the next page, as the processor fetches ahead
// by itself what is read in order. A line that is used has one fetched that will be. Several sums
// at a time keep a product from waiting for the one before; values are paired in registers.
#pragma once

#include "attend_bf16.hpp"

namespace {

using namespace game_agent;

// Sums of one row's score that are added up in the end.
template <int R>
constexpr int kScoreSums = R == 1 ? 4 : R == 2 ? 2 : 1;

// Scores of R rows with a page of a head. With each line of its keys one of `fetched` is fetched.
template <int R>
GAME_AGENT_INLINE void score_few(const uint16_t* high, const uint16_t* low, const float* units,
                                 const uint16_t* keys, const uint16_t* fetched, int dim,
                                 float* scores) {
  Vec acc[kScoreSums<R>][2][R];
  GAME_AGENT_UNROLL for (auto& sums : acc) {
    GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) sums[0][r] = sums[1][r] = Vec::zero();
  }
  const auto add = [&](int d, Vec(&sums)[2][R]) {
    const __m512i k = in_pairs(_mm512_loadu_si512(keys + d * kPageTokens));
    fetch_line(fetched + d * kPageTokens);
    GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
      sums[0][r] = add_products(sums[0][r], all_pairs(high + r * kQueryStride + d), k);
      sums[1][r] = add_products(sums[1][r], all_pairs(low + r * kQueryStride + d), k);
    }
  };
  int d = 0;
  for (; d + 2 * kScoreSums<R> <= dim; d += 2 * kScoreSums<R>) {
    GAME_AGENT_UNROLL for (int s = 0; s < kScoreSums<R>; ++s) add(d + 2 * s, acc[s]);
  }
  for (; d < dim; d += 2) add(d, acc[0]);
  GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
    Vec sum = Vec::zero();
    GAME_AGENT_UNROLL for (auto& sums : acc) sum = sum + (sums[0][r] + sums[1][r]);
    (sum * Vec::all(units[r])).store(scores + r * kScoreStride);
  }
}

// Adds the weighted values of a page of a head in 32 C dimensions to `acc`, which has them in the
// order of unpacked pairs (see in_order). `used` are those of the last 32 that exist; keys from
// `visible` on are seen by no row, and their values may never have been written. Of `fetched` the
// same lines are fetched.
template <int R, int C>
GAME_AGENT_INLINE void add_few_values(const uint16_t* weights, const uint16_t* values,
                                      const uint16_t* fetched, int visible, int dim, __mmask32 used,
                                      float* acc) {
  // With few sums the next product would wait for the last one.
  constexpr int kSets = R * C <= 2 ? 2 : 1;
  Vec sum[kSets][R][C][2];
  GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
    GAME_AGENT_UNROLL for (int c = 0; c < C; ++c) {
      GAME_AGENT_UNROLL for (int half = 0; half < 2; ++half) {
        sum[kSets - 1][r][c][half] = Vec::zero();
        sum[0][r][c][half] = Vec::load(acc + r * kRowStride + 32 * c + half * Vec::kLanes);
      }
    }
  }
  const auto add = [&](auto load) {
    GAME_AGENT_UNROLL for (int t = 0; t < kPageTokens; t += 2) {
      GAME_AGENT_UNROLL for (int c = 0; c < C; ++c) {
        const int at = t * dim + 32 * c;
        const __m512i a = load(t, c, values + at), b = load(t + 1, c, values + at + dim);
        fetch_line(fetched + at);
        fetch_line(fetched + at + dim);
        const __m512i low = _mm512_unpacklo_epi16(a, b), high = _mm512_unpackhi_epi16(a, b);
        GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
          const __m512i w = all_pairs(weights + r * kWeightStride + t);
          Vec(&sums)[2] = sum[t / 2 % kSets][r][c];
          sums[0] = add_products(sums[0], w, low);
          sums[1] = add_products(sums[1], w, high);
        }
      }
    }
  };
  if (visible == kPageTokens && used == ~0u) {
    add([](int, int, const uint16_t* from) { return _mm512_loadu_si512(from); });
  } else {
    add([=](int t, int c, const uint16_t* from) {
      const __mmask32 some = c + 1 == C ? used : ~0u;
      return _mm512_maskz_loadu_epi16(t < visible ? some : 0, from);
    });
  }
  GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
    GAME_AGENT_UNROLL for (int c = 0; c < C; ++c) {
      GAME_AGENT_UNROLL for (int half = 0; half < 2; ++half) {
        Vec total = sum[0][r][c][half];
        if (kSets == 2) total = total + sum[1][r][c][half];
        total.store(acc + r * kRowStride + 32 * c + half * Vec::kLanes);
      }
    }
  }
}

// 32 numbers in the order of unpacked pairs, 0-3, 8-11, 16-19 ... 4-7, 12-15 ..., put in order.
inline void in_order(float* x) {
  const __m512i first = _mm512_set_epi32(23, 22, 21, 20, 7, 6, 5, 4, 19, 18, 17, 16, 3, 2, 1, 0);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  const __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + Vec::kLanes);
  _mm512_storeu_ps(x, _mm512_permutex2var_ps(low, first, high));
  _mm512_storeu_ps(x + Vec::kLanes, _mm512_permutex2var_ps(low, second, high));
}

class FewWorker : public PairWorker {
 public:
  using PairWorker::PairWorker;

  void run() {
    for (int r = 0; r < rows_; ++r) {
      for (int d = 0; d < sums(); d += Vec::kLanes) {
        Vec::zero().store(scratch_.acc + r * kRowStride + d);
      }
    }
    for_rows<kFewPackedRows>(head_rows_, [this](auto rows) {
      constexpr int R = decltype(rows)::value;
      for_tiles([this](const Tile<uint16_t>& tile) { attend_few<R>(tile); });
    });
    for (int r = 0; r < rows_; ++r) {
      for (int d = 0; d < sums(); d += 32) in_order(scratch_.acc + r * kRowStride + d);
    }
    write();
  }

 private:
  // Of a row: dimensions, to the end of the last 32.
  int sums() const { return (call_.dim + 31) / 32 * 32; }

  template <int R>
  void attend_few(const Tile<uint16_t>& tile) {
    for_rotations(tile, [&](int begin, int end) {
      for (int page = begin; page < end; ++page) score_page<R>(tile, page);
    });
    alignas(64) float factor[kTileRows + 16];
    for (int r = 0; r < rows_; r += Vec::kRowBlock) {
      weigh_rows(tile, r, least(Vec::kRowBlock, rows_ - r), factor + r);
    }
    for (int r = 0; r < rows_; ++r) {
      float* const acc = scratch_.acc + r * kRowStride;
      for (int d = 0; d < sums(); d += Vec::kLanes) {
        (Vec::load(acc + d) * Vec::all(factor[r])).store(acc + d);
      }
    }
    for (int page = 0; page < tile.count; ++page) add_page<R>(tile, page);
  }

  template <int R>
  void score_page(const Tile<uint16_t>& tile, int page) {
    const uint16_t *keys = tile.keys[page], *values = tile.values[page];
    for (int r = 0; r < rows_; r += R, keys += page_size_, values += page_size_) {
      const int at = r * kQueryStride;
      score_few<R>(pairs_.queries[0] + at, pairs_.queries[1] + at, pairs_.units + r, keys, values,
                   call_.dim, scratch_.scores + r * kScoreStride + page * kPageTokens);
    }
  }

  template <int R>
  void add_page(const Tile<uint16_t>& tile, int page) {
    const uint16_t *values = tile.values[page], *next_keys = tile.next_keys[page];
    const int visible = visible_keys(highest_, *tile.pages[page]), dim = call_.dim;
    for (int r = 0; r < rows_; r += R, values += page_size_, next_keys += page_size_) {
      const uint16_t* const weights = pairs_.weights + r * kWeightStride + page * kPageTokens;
      const auto add = [&](int d, auto wide) {
        constexpr int C = decltype(wide)::value;
        const int left = dim - d - 32 * (C - 1);
        const auto used = static_cast<__mmask32>(left >= 32 ? ~0u : (1u << left) - 1);
        add_few_values<R, C>(weights, values + d, next_keys + d, visible, dim, used,
                             scratch_.acc + r * kRowStride + d);
      };
      int d = 0;
      for (; d + 32 < dim; d += 64) add(d, Count<2>());
      if (d < dim) add(d, Count<1>());
    }
  }
};

void attend_few(const AttentionCall& call, const Part& part, Scratch& scratch) {
  FewWorker(call, part, scratch).run();
}

}  // namespace
