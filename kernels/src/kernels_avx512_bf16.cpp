#include "vec_avx512.hpp"
// The instruction set first: what follows is written in terms of its Vec.
#include "attend_few.hpp"
#include "elementwise.hpp"
#include "linear.hpp"

namespace game_agent {

const KernelTable& avx512_bf16_kernels() {
  static const KernelTable table = {"avx512_bf16", attend_with_pairs, attend_few, merge, norm,
                                    silu_mul,      rope_store,        weigh_logits, linear};
  return table;
}

}  // namespace game_agent
