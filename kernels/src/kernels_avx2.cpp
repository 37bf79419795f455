#include "vec_avx2.hpp"
// The instruction set first: what follows is written in terms of its Vec.
#include "attend.hpp"
#include "elementwise.hpp"
#include "linear.hpp"

namespace game_agent {

const KernelTable& avx2_kernels() {
  static const KernelTable table = {"avx2",   attend,   nullptr,    merge, norm,
                                    silu_mul, rope_store, weigh_logits, linear};
  return table;
}

}  // namespace game_agent
