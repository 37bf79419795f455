// Linear layers: rows times packed weights, on blocks of rows and outputs whose sums stay in
// registers. The order in which an output is summed does not depend on what other rows there are: a
// row's result is the same in every batch, to the last bit.
#pragma once

#include "kernels.hpp"
#include "vec_math.hpp"

namespace {

using namespace game_agent;

constexpr int kVecsPerPanel = kPanelOutputs / Vec::kLanes;
static_assert(Vec::kWideLinear <= kWidestPanels * kVecsPerPanel, "no room to widen weights");
// Above so many rows narrow weights are widened once for all of them, else as they are used.
constexpr int kWidenRows = 2 * Vec::kRowBlock;

// The weights of kStep inputs and Vec::kLanes outputs, as they come from a panel.
template <typename W>
struct Weights {
  static constexpr int kStep = 1;
  Vec v;
  static Weights load(const W* p) { return {Vec::load(p)}; }
  Vec of(int) const { return v; }
};
template <>
struct Weights<uint16_t> {
  static constexpr int kStep = 2;
  Vec::Pairs v;
  static Weights load(const uint16_t* p) { return {Vec::Pairs::load(p)}; }
  Vec of(int input) const { return input == 0 ? v.first() : v.second(); }
};
// Products are added up in sums of this many inputs: rounding errors grow with the number of sums,
// not of inputs.
constexpr int64_t kSumInputs = 512;

// Vectors of outputs that fit the registers together with R rows.
template <int R>
constexpr int kOutputVecs = R <= Vec::kFewRows ? Vec::kWideFewRows : Vec::kWideLinear;

// R rows from `row` on, N vectors of outputs from `output` on; `panel` holds the first of them.
template <int R, int N, typename W>
GAME_AGENT_INLINE void linear_block(const LinearCall& call, int64_t row, const W* panel,
                                    int64_t output) {
  constexpr int kStep = Weights<W>::kStep;
  const int64_t num_in = call.num_in;
  const float* x[R];
  const W* weights[N];
  Vec total[R][N];
  GAME_AGENT_UNROLL for (int n = 0; n < N; ++n) {
    weights[n] = panel + n / kVecsPerPanel * num_in * kPanelOutputs +
                 n % kVecsPerPanel * Vec::kLanes * kStep;
  }
  GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
    x[r] = call.x + (row + r) * num_in;
    GAME_AGENT_UNROLL for (int n = 0; n < N; ++n) total[r][n] = Vec::zero();
  }
  for (int64_t begin = 0; begin < num_in; begin += kSumInputs) {
    const int64_t end = begin + kSumInputs < num_in ? begin + kSumInputs : num_in;
    Vec sum[R][N];
    GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
      GAME_AGENT_UNROLL for (int n = 0; n < N; ++n) sum[r][n] = Vec::zero();
    }
    for (int64_t i = begin; i < end; i += kStep) {
      Weights<W> w[N];
      GAME_AGENT_UNROLL for (int n = 0; n < N; ++n) {
        w[n] = Weights<W>::load(weights[n] + i * kPanelOutputs);
      }
      GAME_AGENT_UNROLL for (int k = 0; k < kStep; ++k) {
        Vec u[N];
        GAME_AGENT_UNROLL for (int n = 0; n < N; ++n) u[n] = w[n].of(k);
        GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
          const Vec v = Vec::all(x[r][i + k]);
          GAME_AGENT_UNROLL for (int n = 0; n < N; ++n) sum[r][n] = Vec::fma(v, u[n], sum[r][n]);
        }
      }
    }
    GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
      GAME_AGENT_UNROLL for (int n = 0; n < N; ++n) total[r][n] = total[r][n] + sum[r][n];
    }
  }
  GAME_AGENT_UNROLL for (int n = 0; n < N; ++n) {
    const int64_t first = output + n * Vec::kLanes;
    const int64_t left = call.num_out - first;
    if (left <= 0) continue;
    const int lanes = left < Vec::kLanes ? static_cast<int>(left) : Vec::kLanes;
    const Vec bias = call.bias == nullptr ? Vec::zero() : load_lanes(call.bias + first, lanes);
    const Vec scale =
        call.scale == nullptr ? Vec::all(1.0f) : load_lanes(call.scale + first, lanes);
    GAME_AGENT_UNROLL for (int r = 0; r < R; ++r) {
      store_lanes(call.out + (row + r) * call.num_out + first, Vec::fma(total[r][n], scale, bias),
                  lanes);
    }
  }
}

// All rows of a part, N vectors of outputs.
template <int N, typename W>
void linear_rows(const LinearCall& call, const LinearPart& part, const W* panel, int64_t output) {
  for (int64_t row = part.first_row; row < part.last_row; row += Vec::kRowBlock) {
    const int64_t left = part.last_row - row;
    for_rows(left < Vec::kRowBlock ? static_cast<int>(left) : Vec::kRowBlock, [&](auto rows) {
      linear_block<decltype(rows)::value, N>(call, row, panel, output);
    });
  }
}

// The outputs of a part, N vectors at a time, then fewer.
template <int N, typename W, typename F>
GAME_AGENT_INLINE void for_outputs(const LinearCall& call, const LinearPart& part, F body) {
  const int64_t end = part.last_panel * kVecsPerPanel;
  int64_t vec = part.first_panel * kVecsPerPanel;
  const auto step = [&](auto width) {
    for (; vec + width.value <= end; vec += width.value) {
      const W* panel = static_cast<const W*>(call.panels) +
                       vec / kVecsPerPanel * call.num_in * kPanelOutputs;
      body(width, panel, vec * Vec::kLanes);
    }
  };
  step(Count<N>());
  if constexpr (N > 2) step(Count<2>());
  if constexpr (kVecsPerPanel == 1) step(Count<1>());
}

template <typename W>
GAME_AGENT_INLINE const float* widen(const W* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i += Vec::kLanes) Vec::load(from + i).store(to + i);
  return to;
}

// Pairs of inputs become one after another. The vectors of a panel are widened one by one.
GAME_AGENT_INLINE const float* widen(const uint16_t* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i += 2 * kPanelOutputs) {
    for (int v = 0; v < kVecsPerPanel; ++v) {
      const Vec::Pairs pairs = Vec::Pairs::load(from + i + 2 * v * Vec::kLanes);
      pairs.first().store(to + i + v * Vec::kLanes);
      pairs.second().store(to + i + kPanelOutputs + v * Vec::kLanes);
    }
  }
  return to;
}

template <typename W>
void linear_part(const LinearCall& call, const LinearPart& part, float* widened) {
  const int64_t num_rows = part.last_row - part.first_row;
  if constexpr (sizeof(W) < sizeof(float)) {
    if (num_rows > kWidenRows) {
      for_outputs<Vec::kWideLinear, W>(call, part, [&](auto width, const W* panel, int64_t output) {
        const int64_t count = width.value * Vec::kLanes * call.num_in;
        linear_rows<width.value>(call, part, widen(panel, count, widened), output);
      });
      return;
    }
  }
  if (num_rows >= Vec::kRowBlock) {
    for_outputs<Vec::kWideLinear, W>(call, part, [&](auto width, const W* panel, int64_t output) {
      linear_rows<width.value>(call, part, panel, output);
    });
    return;
  }
  for_rows<Vec::kRowBlock - 1>(static_cast<int>(num_rows), [&](auto rows) {
    constexpr int R = decltype(rows)::value;
    for_outputs<kOutputVecs<R>, W>(call, part, [&](auto width, const W* panel, int64_t output) {
      linear_block<R, width.value>(call, part.first_row, panel, output);
    });
  });
}

void linear(const LinearCall& call, const LinearPart& part, float* widened) {
  switch (call.type) {
    case WeightType::f32:
      return linear_part<float>(call, part, widened);
    case WeightType::bf16:
      return linear_part<uint16_t>(call, part, widened);
    case WeightType::f16:
      return linear_part<Half>(call, part, widened);
    case WeightType::i8:
      return linear_part<int8_t>(call, part, widened);
  }
}

}  // namespace
