// Whether the arrays of a Plan belong together: Plan.check (plan.py), which is the reference.
#pragma once

#include <cstdint>

namespace game_agent {

template <typename T>
struct ArrayView {
  const T* data;
  int64_t size;
};

struct PlanArrays {
  ArrayView<int32_t> run_rows, run_segments, page_starts, pages, lengths, positions, row_positions;
  ArrayView<int64_t> row_slots;
  int64_t cos_rows, sin_rows, cos_columns, sin_columns;
};

// Throws std::invalid_argument unless every index lies inside its array and the `num_pages` pages.
void check_plan(const PlanArrays& plan, int64_t num_pages);

}  // namespace game_agent
