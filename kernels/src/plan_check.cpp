#include "plan_check.hpp"

#include <stdexcept>
#include <string>

#include "kernels.hpp"

namespace game_agent {

namespace {

void require(bool fits, const std::string& message) {
  if (!fits) throw std::invalid_argument(message);
}

void check_starts(const char* name, const ArrayView<int32_t>& starts, int64_t end) {
  bool rises = starts.size > 0 && starts.data[0] == 0 && starts.data[starts.size - 1] == end;
  for (int64_t i = 1; rises && i < starts.size; ++i) {
    rises = starts.data[i - 1] <= starts.data[i];
  }
  if (!rises) {
    throw std::invalid_argument(std::string(name) + " must rise from 0 to " + std::to_string(end));
  }
}

template <typename T>
bool all_below(const ArrayView<T>& values, int64_t end) {
  for (int64_t i = 0; i < values.size; ++i) {
    if (values.data[i] < 0 || values.data[i] >= end) return false;
  }
  return true;
}

bool lengths_fit(const PlanArrays& plan) {
  for (int64_t i = 0; i < plan.lengths.size; ++i) {
    const int64_t pages = plan.page_starts.data[i + 1] - plan.page_starts.data[i];
    if (plan.lengths.data[i] < 0 || plan.lengths.data[i] > pages * kPageTokens) return false;
  }
  return true;
}

}  // namespace

void check_plan(const PlanArrays& plan, int64_t num_pages) {
  const int64_t segments = plan.lengths.size;
  check_starts("run_rows", plan.run_rows, plan.row_positions.size);
  check_starts("run_segments", plan.run_segments, segments);
  require(plan.run_segments.size == plan.run_rows.size,
          "run_segments and run_rows must have one entry per run, plus one");
  require(plan.page_starts.size == segments + 1,
          "segments.page_starts must have one entry per segment, plus one");
  check_starts("segments.page_starts", plan.page_starts, plan.pages.size);
  require(plan.positions.size == segments && plan.cos_rows == segments,
          "segments.positions, cos and sin must have one row per segment");
  require(plan.sin_rows == plan.cos_rows && plan.sin_columns == plan.cos_columns,
          "segments.cos and sin differ in shape");
  require(lengths_fit(plan), "a segment is longer than its pages");
  if (!all_below(plan.pages, num_pages)) {
    // The three dots in UTF-8, for compilers that take sources for something else.
    throw std::invalid_argument("a segment names a page outside 0 \xe2\x80\xa6 " +
                                std::to_string(num_pages - 1));
  }
  require(plan.row_slots.size == plan.row_positions.size,
          "row_slots must have one entry per row");
  require(all_below(plan.row_slots, num_pages * kPageTokens),
          "a row is written outside the page pool");
}

}  // namespace game_agent
