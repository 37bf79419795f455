// What the schedule (portable code) and the compute kernels (one copy per instruction set) share.
#pragma once

#include <cstdint>

namespace game_agent {

constexpr int kPageTokens = 16;
// Outputs of a linear layer whose weights lie together: panels are [num_in, kPanelOutputs].
constexpr int kPanelOutputs = 16;
// Most panels that a linear kernel works on at once.
constexpr int kWidestPanels = 3;
constexpr int kMaxDim = 256;
// Packed rows (token rows x query heads of one KV head) and pages that are worked on at once. With
// head dim 64 the working set is about 130 KB: it stays in the second-level cache.
constexpr int kTileRows = 128;
constexpr int kTilePages = 8;
// With so few packed rows, keys and values are read in the order in which they lie: all heads of a
// page.
constexpr int kFewPackedRows = 4;
// Row strides of the scratch matrices: compile-time constants, so that the rows of a block are
// addressed by displacement, and odd multiples of a cache line, so that they use different sets.
constexpr int kRowStride = kMaxDim + 16;
constexpr int kScoreStride = kTilePages * kPageTokens + 16;

enum class PageType { f32, bf16 };

// A page as one run's rows see it.
struct PageRef {
  int32_t page;
  int32_t position;  // frame position of its first key, or about FAR_PAST
  int32_t length;    // keys in use, 1 ... 16
  int32_t rotation;  // first entry in AttentionCall::rotations
};

// A token row; `slot` selects its entry among a page's rotations.
struct RowRef {
  int32_t row;
  int32_t position;
  int32_t slot;
};

// One layer's attention. Shapes as in segment_attention/reference.py.
struct AttentionCall {
  const float* q;
  const void* keys;
  const void* values;
  float* out;
  int heads;
  int kv_heads;
  int dim;
  int half;                  // rotary_dim / 2
  const float* cos;          // [segments, half]
  const float* sin;
  const int32_t* rotations;  // rows of cos and sin
  float scale;
};

// Packed rows [first, last) of some KV heads, of one unless there are few rows, against some pages:
// the unit that a thread works on. Packed row p is query head p % group of token row p / group.
struct Part {
  const PageRef* pages;
  int64_t num_pages;
  const RowRef* rows;
  int first;
  int last;
  int kv_head;
  int num_heads;
  // nullptr: results are final and go to AttentionCall::out. Otherwise [num_heads, last - first,
  // dim + 2]: the weighted sum of values, its maximum score (base 2) and its sum of weights.
  float* partial;
};

// Working memory of one thread.
struct Scratch {
  alignas(64) float q[kTileRows * kRowStride];
  alignas(64) float scores[kTileRows * kScoreStride];
  alignas(64) float acc[kTileRows * kRowStride];
  alignas(64) float top[kTileRows];
  alignas(64) float total[kTileRows];
  const float* q_rows[kTileRows];
  int32_t slots[kTileRows];
  int32_t limits[kTileRows];  // frame position + 1: keys below it are visible
  int32_t block_limits[kTileRows];  // the highest of each block of rows
};

// Results of one (token row, head) that are spread over several parts.
struct MergeRow {
  int64_t out;  // offset in AttentionCall::out
  const int64_t* partials;
  int count;
};

struct NormCall {
  const float* x;
  const float* residual;  // nullptr: plain norm
  const float* weight;
  float* out;
  float* sum;  // x + residual, where there is a residual
  int64_t dim;
  float eps;
};

struct RopeStoreCall {
  const float* qkv;  // [tokens, heads + 2 * kv_heads, dim]
  const float* cos;  // [tokens, half]
  const float* sin;
  const int64_t* slots;
  PageType type;
  void* keys;
  void* values;
  const float* q_norm;  // [dim] or nullptr
  const float* k_norm;
  float* q_out;  // [tokens, heads, dim]
  int heads;
  int kv_heads;
  int dim;
  int half;
  float eps;
};

enum class WeightType { f32, bf16, f16, i8 };

// A float16 number; uint16_t stands for bfloat16.
struct Half {
  uint16_t bits;
};

// out = x times the transposed weights, times scale, plus bias.
struct LinearCall {
  const float* x;      // [rows, num_in]
  // [panels, num_in, kPanelOutputs]; of bf16 [panels, num_in / 2, kPanelOutputs, 2], so that the
  // weights of two inputs lie side by side, as tile products want them.
  const void* panels;
  WeightType type;
  const float* scale;  // [num_out] or nullptr
  const float* bias;   // [num_out] or nullptr
  float* out;          // [rows, num_out]
  int64_t num_in;
  int64_t num_out;
};

// Rows and panels: the unit that a thread works on.
struct LinearPart {
  int64_t first_row;
  int64_t last_row;
  int64_t first_panel;
  int64_t last_panel;
};

// The compute kernels of one instruction set.
struct KernelTable {
  const char* name;
  void (*attend)(const AttentionCall&, PageType, const Part&, Scratch&);  // of one head
  // Of several heads and few rows, over bfloat16 pages; nullptr: one head after another.
  void (*attend_few)(const AttentionCall&, const Part&, Scratch&);
  void (*merge)(const AttentionCall&, const float* partials, const MergeRow&);
  void (*norm)(const NormCall&, int64_t first_row, int64_t last_row);
  void (*silu_mul)(const float* gate_up, float* out, int64_t inner, int64_t first_row,
                   int64_t last_row);
  void (*rope_store)(const RopeStoreCall&, int64_t first_row, int64_t last_row);
  // out = 2^((logits - top) log2(e) / temperature): what tokens weigh, 1 for a logit of `top`.
  void (*weigh_logits)(const float* logits, int64_t count, float top, float temperature,
                       float* out);
  // `widened` has room for kWidestPanels panels of floats if weights are narrower.
  void (*linear)(const LinearCall&, const LinearPart&, float* widened);
};

const KernelTable& plain_kernels();
#if defined(GAME_AGENT_X86)
const KernelTable& avx2_kernels();
const KernelTable& avx512_kernels();
#endif
#if defined(GAME_AGENT_AVX512_BF16)
const KernelTable& avx512_bf16_kernels();
#endif
#if defined(GAME_AGENT_AMX)
const KernelTable& amx_kernels();
#endif

}  // namespace game_agent
