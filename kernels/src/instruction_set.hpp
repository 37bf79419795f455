// Which copy of the compute kernels runs.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace game_agent {

// Names of the copies that this processor can run, the fastest first.
std::vector<std::string> instruction_sets();

// The copy in use: the fastest unless another was chosen.
const KernelTable& kernels();

// Throws std::invalid_argument for a name that is not among instruction_sets().
void set_instruction_set(const std::string& name);

}  // namespace game_agent
