// Functions of Vec. Included after one of the vec_*.hpp files, once per instruction set; everything
// has internal linkage, so that no copy compiled for one processor is ever run on another.
#pragma once

#if defined(_MSC_VER) && !defined(__clang__)
#define GAME_AGENT_UNROLL
#define GAME_AGENT_INLINE __forceinline
#elif defined(__clang__)
#define GAME_AGENT_UNROLL _Pragma("unroll")
#define GAME_AGENT_INLINE inline __attribute__((always_inline))
#else
#define GAME_AGENT_UNROLL _Pragma("GCC unroll 16")
#define GAME_AGENT_INLINE inline __attribute__((always_inline))
#endif

namespace {

constexpr float kLog2E = 1.44269504f;

// 2^x; 0 below -126, at most 2^127. The polynomial interpolates 2^f at the seven Chebyshev nodes of
// [-1/2, 1/2]: relative error 3e-9 before rounding.
GAME_AGENT_INLINE Vec exp2(Vec x) {
  const Vec lowest = Vec::all(-126.0f);
  const Vec bounded = Vec::min(Vec::all(127.0f), Vec::max(lowest, x));
  const Vec whole = Vec::round(bounded);
  const Vec f = bounded - whole;
  Vec p = Vec::all(1.54614449e-4f);
  p = Vec::fma(p, f, Vec::all(1.3400428e-3f));
  p = Vec::fma(p, f, Vec::all(9.61805694e-3f));
  p = Vec::fma(p, f, Vec::all(5.55032715e-2f));
  p = Vec::fma(p, f, Vec::all(0.240226507f));
  p = Vec::fma(p, f, Vec::all(0.693147182f));
  p = Vec::fma(p, f, Vec::all(1.0f));
  return Vec::where_not_below(x, lowest, Vec::scale_by_power(p, whole));
}

// Asks for the cache line at p. Always inline: GCC takes a function that only does this for one
// without effect, and drops the call.
GAME_AGENT_INLINE void fetch_line(const void* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p, 0, 2);
#else
  (void)p;
#endif
}

constexpr int least(int a, int b) { return a < b ? a : b; }
constexpr int most(int a, int b) { return a > b ? a : b; }

// Calls body(i, n) for i = 0, kLanes, 2 kLanes ... below count; n is how many lanes are in use.
template <typename F>
GAME_AGENT_INLINE void for_lanes(int64_t count, F body) {
  int64_t i = 0;
  for (; i + Vec::kLanes <= count; i += Vec::kLanes) body(i, Vec::kLanes);
  if (i < count) body(i, static_cast<int>(count - i));
}

GAME_AGENT_INLINE Vec load_lanes(const float* p, int n) {
  return n == Vec::kLanes ? Vec::load(p) : Vec::load_first(p, n);
}

GAME_AGENT_INLINE void store_lanes(float* p, Vec x, int n) {
  if (n == Vec::kLanes) {
    x.store(p);
  } else {
    x.store_first(p, n);
  }
}

template <int N>
struct Count {
  static constexpr int value = N;
};

// body(Count<rows>) for 1 <= rows <= R.
template <int R = Vec::kRowBlock, typename F>
GAME_AGENT_INLINE void for_rows(int rows, F body) {
  if constexpr (R == 1) {
    body(Count<1>());
  } else if (rows == R) {
    body(Count<R>());
  } else {
    for_rows<R - 1>(rows, body);
  }
}

// RoPE in the half-split layout, from [dim] to [dim]. The two may be the same.
GAME_AGENT_INLINE void rotate_row(const float* from, float* to, const float* cos, const float* sin,
                                  int half, int dim) {
  for_lanes(half, [&](int64_t i, int n) {
    const Vec a = load_lanes(from + i, n);
    const Vec b = load_lanes(from + half + i, n);
    const Vec c = load_lanes(cos + i, n);
    const Vec s = load_lanes(sin + i, n);
    store_lanes(to + i, a * c - b * s, n);
    store_lanes(to + half + i, Vec::fma(b, c, a * s), n);
  });
  for_lanes(dim - 2 * half, [&](int64_t i, int n) {
    store_lanes(to + 2 * half + i, load_lanes(from + 2 * half + i, n), n);
  });
}

}  // namespace
