#include "vec_avx512.hpp"
// The instruction set first: what follows is written in terms of its Vec.
#include "attend.hpp"
#include "elementwise.hpp"
#include "linear.hpp"

namespace game_agent {

const KernelTable& avx512_kernels() {
  static const KernelTable table = {"avx512",   attend,   nullptr,    merge, norm,
                                    silu_mul, rope_store, weigh_logits, linear};
  return table;
}

}  // namespace game_agent
