#include "decoder.hpp"

#include <algorithm>

#include "instruction_set.hpp"
#include "linear_parts.hpp"
#include "rows.hpp"

namespace game_agent {

namespace {

// What lies between the operations of a layer. Kept by the thread: fresh memory for every pass would
// cost more page faults than a short pass costs work.
struct Buffers {
  std::vector<float> x, qkv, q, attended, delta, gate_up, inner;

  void make_room(const DecoderShape& shape, int64_t rows) {
    const int64_t q_size = static_cast<int64_t>(shape.heads) * shape.dim;
    const int64_t kv_size = static_cast<int64_t>(shape.kv_heads) * shape.dim;
    const auto grow = [rows](std::vector<float>& buffer, int64_t columns) {
      const auto needed = static_cast<size_t>(rows * columns);
      if (buffer.size() < needed) buffer.resize(needed);
    };
    grow(x, shape.hidden);
    grow(qkv, q_size + 2 * kv_size);
    grow(q, q_size);
    grow(attended, q_size);
    grow(delta, shape.hidden);
    grow(gate_up, 2 * shape.inner);
    grow(inner, shape.inner);
  }
};

void multiply(const LinearWeights& w, const float* x, float* out, int64_t rows) {
  run_linear({x, w.panels, w.type, w.scale, w.bias, out, w.num_in, w.num_out}, rows);
}

// residual += delta (where there is one); out = its norm.
void add_norm(const float* delta, float* residual, const float* weight, float* out, int64_t rows,
              const DecoderShape& shape) {
  const NormCall call = delta == nullptr
                            ? NormCall{residual, nullptr, weight, out, nullptr, shape.hidden,
                                       shape.eps}
                            : NormCall{delta, residual, weight, out, residual, shape.hidden,
                                       shape.eps};
  const KernelTable& table = kernels();
  for_row_chunks(rows, shape.hidden,
                 [&](int64_t first, int64_t last) { table.norm(call, first, last); });
}

// Moves the named rows to the front.
void gather(float* rows, int64_t columns, const int64_t* index, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (index[i] != i) {
      std::copy_n(rows + index[i] * columns, columns, rows + i * columns);
    }
  }
}

}  // namespace

void Decoder::forward(const DecoderPass& pass) const {
  thread_local Buffers mine;
  Buffers& buffers = mine;  // in a lambda the name `mine` would mean the other thread's
  buffers.make_room(shape_, pass.rows);
  const KernelTable& table = kernels();
  const int64_t q_size = static_cast<int64_t>(shape_.heads) * shape_.dim;
  const int64_t row_floats = q_size + 2 * static_cast<int64_t>(shape_.kv_heads) * shape_.dim;
  float* const x = buffers.x.data();
  const float* delta = nullptr;
  int64_t rows = pass.rows;
  const Schedule* schedule = pass.schedule;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const DecoderLayer& layer = layers_[i];
    char* const keys = pass.keys + static_cast<int64_t>(i) * pass.layer_bytes;
    char* const values = pass.values + static_cast<int64_t>(i) * pass.layer_bytes;
    add_norm(delta, pass.residual, layer.input_norm, x, rows, shape_);
    multiply(layer.qkv, x, buffers.qkv.data(), rows);
    const RopeStoreCall store = {buffers.qkv.data(), pass.cos,   pass.sin,
                                 pass.slots,         pass.type,  keys,
                                 values,             layer.q_norm, layer.k_norm,
                                 buffers.q.data(),   shape_.heads, shape_.kv_heads,
                                 shape_.dim,         pass.half,  shape_.eps};
    for_row_chunks(rows, row_floats,
                   [&](int64_t first, int64_t last) { table.rope_store(store, first, last); });
    if (i + 1 == layers_.size() && pass.num_out < rows) {
      if (pass.num_out == 0) return;
      gather(buffers.q.data(), q_size, pass.out_rows, pass.num_out);
      gather(pass.residual, shape_.hidden, pass.out_rows, pass.num_out);
      rows = pass.num_out;
      schedule = pass.out_schedule;
    }
    schedule->attend(buffers.q.data(), keys, values, pass.type, shape_.scale,
                     buffers.attended.data());
    multiply(layer.out, buffers.attended.data(), buffers.delta.data(), rows);
    add_norm(buffers.delta.data(), pass.residual, layer.post_norm, x, rows, shape_);
    multiply(layer.gate_up, x, buffers.gate_up.data(), rows);
    for_row_chunks(rows, 4 * shape_.inner, [&](int64_t first, int64_t last) {
      table.silu_mul(buffers.gate_up.data(), buffers.inner.data(), shape_.inner, first, last);
    });
    multiply(layer.down, buffers.inner.data(), buffers.delta.data(), rows);
    delta = buffers.delta.data();
  }
  add_norm(delta, pass.residual, norm_, x, rows, shape_);
  multiply(head_, x, pass.logits, rows);
}

}  // namespace game_agent
