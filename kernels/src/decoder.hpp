// The whole forward pass of a Llama-shaped decoder: the operations of this folder, one after
// another, without going back to Python between them.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.hpp"
#include "schedule.hpp"

namespace game_agent {

// A linear layer's packed weights (see LinearCall).
struct LinearWeights {
  const void* panels;
  WeightType type;
  const float* scale;
  const float* bias;
  int64_t num_in;
  int64_t num_out;
};

struct DecoderLayer {
  const float* input_norm;
  LinearWeights qkv;
  LinearWeights out;
  const float* post_norm;
  LinearWeights gate_up;
  LinearWeights down;
  const float* q_norm;  // [dim] or nullptr
  const float* k_norm;
};

struct DecoderShape {
  int64_t hidden;
  int64_t inner;
  int heads;
  int kv_heads;
  int dim;
  float eps;
  float scale;  // of attention's scores
};

// Rows of a pass and where their keys and values go.
struct DecoderPass {
  float* residual;  // [rows, hidden] embeddings; overwritten
  int64_t rows;
  const float* cos;  // [rows, half]
  const float* sin;
  int half;
  const int64_t* slots;
  char* keys;  // of layer 0; the next layer's lie `layer_bytes` further
  char* values;
  int64_t layer_bytes;
  PageType type;
  const Schedule* schedule;
  // The last layer finishes only these rows, in rising order.
  const int64_t* out_rows;
  int64_t num_out;
  const Schedule* out_schedule;
  float* logits;  // [num_out, vocab]
};

class Decoder {
 public:
  explicit Decoder(const DecoderShape& shape) : shape_(shape) {}

  void add_layer(const DecoderLayer& layer) { layers_.push_back(layer); }
  void set_head(const float* norm, const LinearWeights& head) {
    norm_ = norm;
    head_ = head;
  }

  void forward(const DecoderPass& pass) const;

 private:
  DecoderShape shape_;
  std::vector<DecoderLayer> layers_;
  const float* norm_ = nullptr;
  LinearWeights head_ = {};
};

}  // namespace game_agent
