// Several tokens of replies in one call: each is drawn, and the next pass's input.
#pragma once

#include <cstdint>
#include <vector>

#include "decoder.hpp"
#include "sample.hpp"
#include "schedule.hpp"

namespace game_agent {

// One row for each of `rows` replies. All arrays are checked by the caller.
struct Burst {
  int64_t rows;
  int64_t max_steps;
  double max_s;  // no pass follows that would likely end after so many seconds
  const int64_t* tokens;     // [rows]: those of the first pass
  const int64_t* positions;  // [rows]: their frame positions, which rise by 1 with each pass
  const int64_t* slots;      // [max_steps, rows]
  const void* embedding;     // [vocab, hidden] of embedding_type
  WeightType embedding_type;
  int64_t hidden;
  int64_t vocab;
  const float* cos;  // [positions, half]
  const float* sin;
  int half;
  char* keys;  // see DecoderPass
  char* values;
  int64_t layer_bytes;
  PageType type;
  Draws draws;  // chances are [max_steps, rows]
  const int64_t* stops;  // tokens after which no pass follows
  int64_t num_stops;
  const volatile int32_t* news;  // not 0: no pass follows
  int64_t* out;  // [max_steps, rows]; -1: the logits are no numbers, and no pass follows
};

// Returns how many passes were made: at least one, and no more than the last pages of the replies'
// own frames have room for. `schedule` is the first pass's, and then the last one's.
int64_t run_burst(const Decoder& decoder, Schedule& schedule, const Burst& burst);

}  // namespace game_agent
