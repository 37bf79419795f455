// Work on independent rows, shared out to the threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "thread_pool.hpp"

namespace game_agent {

// Calls body(first_row, last_row) on chunks of rows; small work stays on this thread.
template <typename F>
void for_row_chunks(int64_t rows, int64_t row_floats, const F& body) {
  constexpr int64_t kChunkFloats = 32768;
  const int64_t chunk = std::max<int64_t>(1, kChunkFloats / std::max<int64_t>(1, row_floats));
  ThreadPool::shared().parallel_for((rows + chunk - 1) / chunk, [&](int64_t i) {
    body(i * chunk, std::min(rows, (i + 1) * chunk));
  });
}

}  // namespace game_agent
