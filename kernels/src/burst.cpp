#include "burst.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>

namespace game_agent {

namespace {

float to_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

float half_to_float(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16, rest = half & 0x7fffu;
  if (rest >= 0x7c00u) return to_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  // Scaling by 2^112 moves the exponent's bias, and makes small numbers normal.
  return to_float(sign | rest << 13) * to_float(0x77800000u);
}

void embed(const Burst& burst, int64_t token, float* to) {
  const int64_t begin = token * burst.hidden;
  const auto* const f32 = static_cast<const float*>(burst.embedding);
  const auto* const bits = static_cast<const uint16_t*>(burst.embedding);
  for (int64_t i = 0; i < burst.hidden; ++i) {
    switch (burst.embedding_type) {
      case WeightType::bf16:
        to[i] = to_float(static_cast<uint32_t>(bits[begin + i]) << 16);
        break;
      case WeightType::f16:
        to[i] = half_to_float(bits[begin + i]);
        break;
      default:
        to[i] = f32[begin + i];
    }
  }
}

}  // namespace

int64_t run_burst(const Decoder& decoder, Schedule& schedule, const Burst& burst) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begun = Clock::now();
  const int64_t rows = burst.rows;
  std::vector<float> residual(rows * burst.hidden), logits(rows * burst.vocab);
  std::vector<float> cos(rows * burst.half), sin(rows * burst.half);
  std::vector<int64_t> all_rows(rows);
  std::iota(all_rows.begin(), all_rows.end(), 0);
  const int64_t* tokens = burst.tokens;
  for (int64_t step = 0;; ++step) {
    for (int64_t row = 0; row < rows; ++row) {
      embed(burst, tokens[row], residual.data() + row * burst.hidden);
      const int64_t angle = (burst.positions[row] + step) * burst.half;
      std::copy_n(burst.cos + angle, burst.half, cos.data() + row * burst.half);
      std::copy_n(burst.sin + angle, burst.half, sin.data() + row * burst.half);
    }
    decoder.forward({residual.data(), rows, cos.data(), sin.data(), burst.half,
                     burst.slots + step * rows, burst.keys, burst.values, burst.layer_bytes,
                     burst.type, &schedule, all_rows.data(), rows, &schedule, logits.data()});
    int64_t* const out = burst.out + step * rows;
    const Draws& draws = burst.draws;
    sample_rows(logits.data(), rows, burst.vocab,
                {draws.temperatures, draws.top_ps, draws.top_ks, draws.chances + step * rows}, out);
    // As long as the passes so far were.
    const std::chrono::duration<double> until_next = (Clock::now() - begun) * (step + 2) / (step + 1);
    bool is_last = step + 1 == burst.max_steps || until_next.count() > burst.max_s ||
                   *burst.news != 0;
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t* const end = burst.stops + burst.num_stops;
      is_last = is_last || out[row] < 0 || std::find(burst.stops, end, out[row]) != end;
    }
    if (is_last || !schedule.advance()) return step + 1;
    tokens = out;
  }
}

}  // namespace game_agent
