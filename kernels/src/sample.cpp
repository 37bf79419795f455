#include "sample.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "instruction_set.hpp"
#include "kernels.hpp"
#include "rows.hpp"

namespace game_agent {

namespace {

constexpr int kLanes = 16;     // compared side by side
constexpr int64_t kSpan = 256;  // weights that are added up together

struct Likeliest {
  int64_t token;  // the first of them, or -1 where it is no number, or any is none
  float logit;
};

Likeliest find_likeliest(const float* logits, int64_t count) {
  float best[kLanes];
  int none[kLanes] = {};
  std::fill_n(best, kLanes, -std::numeric_limits<float>::infinity());
  const auto look = [&](int lane, float x) {
    best[lane] = x > best[lane] ? x : best[lane];
    none[lane] |= x != x;
  };
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) look(lane, logits[i + lane]);
  }
  for (; i < count; ++i) look(0, logits[i]);
  const float top = *std::max_element(best, best + kLanes);
  if (!std::isfinite(top) || std::any_of(none, none + kLanes, [](int x) { return x != 0; })) {
    return {-1, top};
  }
  return {std::find(logits, logits + count, top) - logits, top};
}

double sum_of(const float* weights, int64_t count) {
  float sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] += weights[i + lane];
  }
  double sum = 0.0;
  for (float some : sums) sum += some;
  for (; i < count; ++i) sum += weights[i];
  return sum;
}

// Sums of kSpan weights each.
double add_spans(const std::vector<float>& weights, std::vector<double>& spans) {
  spans.clear();
  double total = 0.0;
  const auto count = static_cast<int64_t>(weights.size());
  for (int64_t i = 0; i < count; i += kSpan) {
    spans.push_back(sum_of(weights.data() + i, std::min(kSpan, count - i)));
    total += spans.back();
  }
  return total;
}

// Of all, by their ids.
int64_t draw_by_id(const std::vector<float>& weights, const std::vector<double>& spans,
                   double target) {
  double before = 0.0;
  size_t span = 0;
  while (span + 1 < spans.size() && before + spans[span] <= target) before += spans[span++];
  const auto count = static_cast<int64_t>(weights.size());
  // Should rounding put the target behind the span's end, a later token is the one, or the last.
  for (int64_t i = static_cast<int64_t>(span) * kSpan; i < count; ++i) {
    before += weights[i];
    if (weights[i] > 0.0f && before > target) return i;
  }
  int64_t last = count - 1;
  while (last > 0 && weights[last] == 0.0f) --last;
  return last;
}

// A token and its weight in one number: the more it weighs the larger, or of equals the lower its id.
uint64_t key_of(float weight, int64_t token) {
  uint32_t bits;
  std::memcpy(&bits, &weight, sizeof bits);
  return static_cast<uint64_t>(bits) << 32 | (UINT32_MAX - static_cast<uint32_t>(token));
}

float weight_of(uint64_t key) {
  const auto bits = static_cast<uint32_t>(key >> 32);
  float weight;
  std::memcpy(&weight, &bits, sizeof weight);
  return weight;
}

int64_t token_of(uint64_t key) { return UINT32_MAX - static_cast<uint32_t>(key); }

// Where a sum is reached, and how much it is there.
struct Place {
  int64_t index;
  double sum;  // with the one at index
};

// Of the first `count` keys in falling order, the first whose cumulated weights exceed `target`, or
// the last. Keys are put in order only as far as needed: all before the place are larger.
Place find_sum(std::vector<uint64_t>& keys, int64_t count, double target) {
  constexpr int64_t kFew = 32;
  int64_t begin = 0, end = count;
  double before = 0.0;
  while (end - begin > kFew) {
    uint64_t some[3] = {keys[begin], keys[begin + (end - begin) / 2], keys[end - 1]};
    std::sort(some, some + 3);
    double sum = 0.0;
    // All keys differ, so the middle one of three has one on either side.
    const auto middle = std::partition(keys.begin() + begin, keys.begin() + end, [&](uint64_t key) {
      const bool larger = key > some[1];
      sum += larger ? weight_of(key) : 0.0f;
      return larger;
    });
    if (before + sum > target) {
      end = middle - keys.begin();
    } else {
      before += sum;
      begin = middle - keys.begin();
    }
  }
  std::sort(keys.begin() + begin, keys.begin() + end, std::greater<uint64_t>());
  for (int64_t i = begin;; ++i) {
    before += weight_of(keys[i]);
    if (before > target || i + 1 >= end) return {i, before};
  }
}

// Of the likeliest only, by their weights.
int64_t draw_by_weight(const std::vector<float>& weights, double total, float top_p, int64_t top_k,
                       float chance, std::vector<uint64_t>& keys) {
  // All that weigh less add up to less than 1 - top_p. With some room for rounding.
  const double share = top_p < 1.0f ? (1.0 - top_p) * 0.999 : 0.0;
  const double floor = share * total / static_cast<double>(weights.size());
  keys.clear();
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] > 0.0f && weights[i] >= floor) keys.push_back(key_of(weights[i], i));
  }
  if (keys.empty()) return -1;  // settings that are no numbers
  auto count = static_cast<int64_t>(keys.size());
  if (top_k > 0 && top_k < count) {
    std::nth_element(keys.begin(), keys.begin() + top_k, keys.end(), std::greater<uint64_t>());
    count = top_k;
  }
  const double enough = top_p < 1.0f ? std::nextafter(top_p * total, 0.0) : HUGE_VAL;
  const Place kept = find_sum(keys, count, enough);
  return token_of(keys[find_sum(keys, kept.index + 1, chance * kept.sum).index]);
}

int64_t sample_row(const float* logits, int64_t count, const Draws& draws, int64_t row) {
  const Likeliest likeliest = find_likeliest(logits, count);
  const float temperature = draws.temperatures[row], top_p = draws.top_ps[row];
  const int64_t top_k = draws.top_ks[row];
  if (likeliest.token < 0 || temperature <= 0.0f) return likeliest.token;
  thread_local std::vector<float> weights;
  thread_local std::vector<double> spans;
  thread_local std::vector<uint64_t> keys;
  weights.resize(count);
  kernels().weigh_logits(logits, count, likeliest.logit, temperature, weights.data());
  const double total = add_spans(weights, spans);
  const float chance = draws.chances[row];
  if (top_p < 1.0f || top_k > 0) return draw_by_weight(weights, total, top_p, top_k, chance, keys);
  return draw_by_id(weights, spans, chance * total);
}

}  // namespace

void sample_rows(const float* logits, int64_t rows, int64_t count, const Draws& draws,
                 int64_t* tokens) {
  // Weighing a logit takes as long as some copies of one.
  constexpr int64_t kCost = 8;
  for_row_chunks(rows, count * kCost, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      tokens[row] = sample_row(logits + row * count, count, draws, row);
    }
  });
}

}  // namespace game_agent
