#include "vec_avx512.hpp"
// The instruction set first: what follows is written in terms of its Vec.
#include "attend_amx.hpp"
#include "elementwise.hpp"
#include "linear_amx.hpp"

namespace game_agent {

const KernelTable& amx_kernels() {
  static const KernelTable table = {"amx",    attend_with_tiles, nullptr, merge, norm,
                                    silu_mul, rope_store,        weigh_logits, linear_with_tiles};
  return table;
}

}  // namespace game_agent
