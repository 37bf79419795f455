// A linear layer's division into parts for the threads, and their execution.
#pragma once

#include <cstdint>

#include "kernels.hpp"

namespace game_agent {

void run_linear(const LinearCall& call, int64_t num_rows);

}  // namespace game_agent
