#include "linear_parts.hpp"

#include <algorithm>
#include <vector>

#include "instruction_set.hpp"
#include "thread_pool.hpp"

namespace game_agent {

namespace {

// Cost is counted in (row, panel, input): one multiplication of 16 floats. Loading the weights of a
// panel costs about as much as this many rows.
constexpr int64_t kLoadCost = 4;
// Below this cost (about 2 microseconds) work is not handed to another thread, which in the middle
// of a pass is awake.
constexpr int64_t kSmallCost = 1 << 13;
// Parts per thread: enough to even out threads that come late or run slower.
constexpr int64_t kPartsPerThread = 4;
// Rows of a part, so that they stay in the second-level cache while panels pass by.
constexpr int64_t kMaxTileRows = 120;
constexpr int64_t kMinTileRows = 24;
constexpr int64_t kTileFloats = 1 << 17;
// Panels are counted out in these numbers, as the widest products take them.
constexpr int64_t kFewRows = 4;
constexpr int64_t kPanelsFewRows = 4;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t tile_rows(int64_t num_rows, int64_t num_in) {
  const int64_t fits = kTileFloats / std::max<int64_t>(1, num_in);
  const int64_t most = std::clamp(fits, kMinTileRows, kMaxTileRows);
  const int64_t even = ceil_div(num_rows, ceil_div(num_rows, most));
  constexpr int64_t kBlock = 24;  // whole blocks of rows on every instruction set
  return num_rows <= most ? num_rows : ceil_div(even, kBlock) * kBlock;
}

float* widened_panels(int64_t num_in) {
  thread_local std::vector<float> memory;
  const auto needed = static_cast<size_t>(num_in * kWidestPanels * kPanelOutputs);
  if (memory.size() < needed) memory.resize(needed);
  return memory.data();
}

}  // namespace

void run_linear(const LinearCall& call, int64_t num_rows) {
  if (num_rows == 0 || call.num_out == 0) return;
  const int64_t threads = ThreadPool::shared().num_threads();
  const int64_t num_panels = ceil_div(call.num_out, kPanelOutputs);
  const int64_t cost = call.num_in * num_panels * (num_rows + kLoadCost);
  const int64_t parts =
      threads == 1 ? 1 : std::clamp<int64_t>(cost / kSmallCost, 1, threads * kPartsPerThread);
  const int64_t rows = tile_rows(num_rows, call.num_in);
  const int64_t row_tiles = ceil_div(num_rows, rows);
  const int64_t step = num_rows <= kFewRows ? kPanelsFewRows : kWidestPanels;
  const int64_t even = ceil_div(num_panels, ceil_div(parts, row_tiles));
  const int64_t panels = ceil_div(even, step) * step;
  const int64_t panel_tiles = ceil_div(num_panels, panels);
  const KernelTable& table = kernels();
  const bool plain = call.type == WeightType::f32;
  ThreadPool::shared().parallel_for(row_tiles * panel_tiles, [&](int64_t i) {
    const int64_t row = i / panel_tiles * rows;
    const int64_t panel = i % panel_tiles * panels;
    const LinearPart part = {row, std::min(num_rows, row + rows), panel,
                             std::min(num_panels, panel + panels)};
    table.linear(call, part, plain ? nullptr : widened_panels(call.num_in));
  });
}

}  // namespace game_agent
