// The choice of the next token from its logits.
#pragma once

#include <cstdint>

namespace game_agent {

// How tokens of some rows are chosen; arrays of [rows].
struct Draws {
  const float* temperatures;  // 0: the likeliest
  const float* top_ps;        // of the likeliest, as many as reach it together; 1: all
  const int64_t* top_ks;      // so many of the likeliest; 0: all
  const float* chances;       // in [0, 1)
};

// A token for each row of logits [rows, count], or -1 where they hold no numbers. A row's token
// depends on nothing but its logits and its entry in `draws`. It is the first whose cumulated
// weights exceed its chance's share of their sum, in order of ids, or where some are left out, of
// weights.
void sample_rows(const float* logits, int64_t rows, int64_t count, const Draws& draws,
                 int64_t* tokens);

}  // namespace game_agent
