// Attention of one part (see kernels.hpp): online softmax over tiles of pages.
//
// For each tile: scores of a block of rows are a small matrix product (rows' queries, broadcast,
// times registers that hold one dimension of consecutive keys); then the rows' maximum, weights and
// sum; then the weights times the values. K and V of a page are loaded once per block of rows.
#pragma once

#include "kernels.hpp"
#include "products.hpp"
#include "vec_math.hpp"

namespace {

using namespace game_agent;

// Score of a masked key, far below kNothing, so that its weight is 0 also in a row without keys.
constexpr float kMasked = -3e38f;
constexpr float kNothing = -1e30f;

inline int visible_keys(int limit, const PageRef& page) {
  const int n = least(limit - page.position, page.length);
  return n > 0 ? n : 0;
}

// Vectors per row that fit the registers together with R rows.
template <int R>
constexpr int kVectors = R <= Vec::kFewRows ? Vec::kWideFewRows : Vec::kWide;

// Pages attended at once, as all rows of a part share them.
template <typename KV>
struct Tile {
  int count;
  const PageRef* pages[kTilePages];
  const KV* keys[kTilePages];
  // Of the pages that follow. Pages lie scattered: the processor cannot guess the next one.
  const KV* next_keys[kTilePages];
  const KV* values[kTilePages];
  // Keys that every row sees, or -1 where rows differ.
  int visible[kTilePages];
};

// The part being worked on.
template <typename KV>
class Worker {
 public:
  Worker(const AttentionCall& call, const Part& part, Scratch& scratch)
      : call_(call),
        part_(part),
        scratch_(scratch),
        head_rows_(part.last - part.first),
        rows_(part.num_heads * head_rows_),
        page_size_(static_cast<int64_t>(call.dim) * kPageTokens) {
    const int group = call.heads / call.kv_heads;
    for (int r = 0; r < rows_; ++r) {
      const int packed = part.first + r % head_rows_, kv_head = part.kv_head + r / head_rows_;
      const RowRef& row = part.rows[packed / group];
      const int64_t head = static_cast<int64_t>(row.row) * call.heads + kv_head * group;
      scratch.q_rows[r] = call.q + (head + packed % group) * call.dim;
      scratch.slots[r] = row.slot;
      scratch.limits[r] = row.position + 1;
      scratch.top[r] = kNothing;
      scratch.total[r] = 0.0f;
    }
    for (int r = 0; r < rows_; r += Vec::kRowBlock) {
      int limit = scratch.limits[r];
      for (int i = r; i < least(r + Vec::kRowBlock, rows_); ++i) {
        limit = most(limit, scratch.limits[i]);
        lowest_ = i == 0 ? limit : least(lowest_, scratch.limits[i]);
      }
      scratch.block_limits[r / Vec::kRowBlock] = limit;
      highest_ = r == 0 ? limit : most(highest_, limit);
    }
    prepare_rows();
  }

  void run() {
    for_tiles([this](const Tile<KV>& tile) { attend_tile(tile); });
    write();
  }

 protected:
  // Calls attend(tile) for all pages that some row sees.
  template <typename F>
  void for_tiles(F attend) {
    Tile<KV> tile;
    for (int64_t next = 0; next < part_.num_pages;) {
      for (tile.count = 0; tile.count < kTilePages && next < part_.num_pages; ++next) {
        const PageRef& page = part_.pages[next];
        const int visible = visible_keys(highest_, page);
        if (visible == 0) continue;
        const int i = tile.count++;
        tile.pages[i] = &page;
        tile.keys[i] = page_data(call_.keys, page);
        tile.values[i] = page_data(call_.values, page);
        tile.visible[i] = visible_keys(lowest_, page) == visible ? visible : -1;
      }
      for (int i = 0; i < kTilePages; ++i) {
        const int64_t ahead = next + i < part_.num_pages ? next + i : part_.num_pages - 1;
        tile.next_keys[i] = page_data(call_.keys, part_.pages[ahead]);
      }
      attend(tile);
    }
  }

  // Clears the sums; scales the dimensions that no rotation reaches.
  void prepare_rows() {
    const int fixed = 2 * call_.half;
    for (int r = 0; r < rows_; ++r) {
      float* acc = scratch_.acc + r * kRowStride;
      for (int d = 0; d < call_.dim; d += Vec::kLanes) Vec::zero().store(acc + d);
      const float* from = scratch_.q_rows[r] + fixed;
      float* to = scratch_.q + r * kRowStride + fixed;
      for (int d = 0; d < call_.dim - fixed; ++d) to[d] = from[d] * call_.scale * kLog2E;
    }
  }

  const KV* page_data(const void* pool, const PageRef& page) const {
    const int64_t index = static_cast<int64_t>(page.page) * call_.kv_heads + part_.kv_head;
    return static_cast<const KV*>(pool) + index * page_size_;
  }

  // Asks for a share of some pages' cache lines before a block of rows is worked on. Each line would
  // otherwise be waited for; all at once would hold up the loads that are needed now.
  GAME_AGENT_INLINE void fetch(const KV* const* pages, int count, int first_row) const {
    constexpr int kLine = 64 / sizeof(KV);
    const int64_t begin = page_size_ * first_row / rows_;
    const int64_t end = page_size_ * least(rows_, first_row + Vec::kRowBlock) / rows_;
    for (int p = 0; p < count; ++p) {
      for (int64_t i = begin / kLine * kLine; i < end; i += kLine) fetch_line(pages[p] + i);
    }
  }

  void attend_tile(const Tile<KV>& tile) {
    for (int begin = 0; begin < tile.count;) {
      const int rotation = tile.pages[begin]->rotation;
      int end = begin + 1;
      while (end < tile.count && tile.pages[end]->rotation == rotation) ++end;
      if (rotation != rotation_) rotate(rotation);
      score_pages(tile, begin, end);
      begin = end;
    }
    alignas(64) float factor[kTileRows + 16];
    for (int r = 0; r < rows_; r += Vec::kRowBlock) {
      weigh_rows(tile, r, least(Vec::kRowBlock, rows_ - r), factor + r);
    }
    add_values(tile, factor);
  }

  // Queries for the pages of one distance, scaled so that scores are in units of log 2.
  void rotate(int rotation) {
    rotation_ = rotation;
    const Vec scale = Vec::all(call_.scale * kLog2E);
    for_slots(rotation, [&](int first, int end, const float* all_cos, const float* all_sin) {
      for_lanes(call_.half, [&](int64_t i, int n) {
        const Vec cos = load_lanes(all_cos + i, n) * scale;
        const Vec sin = load_lanes(all_sin + i, n) * scale;
        for (int r = first; r < end; ++r) {
          const float* from = scratch_.q_rows[r] + i;
          float* to = scratch_.q + r * kRowStride + i;
          const Vec a = load_lanes(from, n);
          const Vec b = load_lanes(from + call_.half, n);
          store_lanes(to, a * cos - b * sin, n);
          store_lanes(to + call_.half, Vec::fma(b, cos, a * sin), n);
        }
      });
    });
  }

  // Calls turn(first, end, cos, sin) for rows [first, end) that the same angles [half] turn.
  template <typename F>
  void for_slots(int rotation, F turn) {
    for (int first = 0; first < rows_;) {
      const int slot = scratch_.slots[first];
      int end = first + 1;
      while (end < rows_ && scratch_.slots[end] == slot) ++end;
      const int64_t angle = static_cast<int64_t>(call_.rotations[rotation + slot]) * call_.half;
      turn(first, end, call_.cos + angle, call_.sin + angle);
      first = end;
    }
  }

  int block_limit(int first_row) const { return scratch_.block_limits[first_row / Vec::kRowBlock]; }

  // Scores of all rows with the pages [begin, end) of a tile. A few pages at a time meet all rows,
  // while they lie in the first-level cache.
  void score_pages(const Tile<KV>& tile, int begin, int end) {
    const int most_pages = most(1, (rows_ <= Vec::kFewRows ? Vec::kWideFewRows : Vec::kWide) /
                                       kVecsPerPage);
    for (int page = begin; page < end; page += most_pages) {
      const int last = least(page + most_pages, end);
      for (int r = 0; r < rows_; r += Vec::kRowBlock) {
        fetch(tile.values + page, last - page, r);
        score_rows(tile, page, last, r);
      }
    }
  }

  // Scores of a block of rows with the pages [page, end), as many as fit the registers.
  void score_rows(const Tile<KV>& tile, int page, int end, int first_row) {
    const int limit = block_limit(first_row);
    const int count = least(Vec::kRowBlock, rows_ - first_row);
    // Positions rise, so pages that this block cannot see come last (if not, they are masked).
    while (end > page && limit <= tile.pages[end - 1]->position) --end;
    const float* q = scratch_.q + first_row * kRowStride;
    float* scores = scratch_.scores + first_row * kScoreStride;
    for_rows(count, [&](auto rows) {
      constexpr int R = decltype(rows)::value;
      constexpr int N = most(1, kVectors<R> / kVecsPerPage);
      const auto step = [&](auto wide) {
        constexpr int W = decltype(wide)::value;
        for (; page + W <= end; page += W) {
          score_block<R, W>(q, tile.keys + page, call_.dim, scores + page * kPageTokens);
        }
      };
      step(Count<N>());
      if constexpr (N > 2) step(Count<2>());
      if constexpr (N > 1) step(Count<1>());
    });
  }

  // Scores become weights; factor [rows] is what earlier sums have to be multiplied by.
  void weigh_rows(const Tile<KV>& tile, int first_row, int count, float* factor) {
    alignas(64) float drop[16] = {};
    for (int i = 0; i < count; ++i) {
      const int r = first_row + i;
      const float before = scratch_.top[r];
      const float here = mask_row(tile, r);
      scratch_.top[r] = here > before ? here : before;
      drop[i] = before - scratch_.top[r];
    }
    for (int i = 0; i < count; i += Vec::kLanes) exp2(Vec::load(drop + i)).store(factor + i);
    for (int i = 0; i < count; ++i) {
      const int r = first_row + i;
      float* scores = scratch_.scores + r * kScoreStride;
      const Vec top = Vec::all(scratch_.top[r]);
      Vec sum = Vec::zero();
      for (int j = 0; j < tile.count * kPageTokens; j += Vec::kLanes) {
        const Vec weight = exp2(Vec::load(scores + j) - top);
        weight.store(scores + j);
        sum = sum + weight;
      }
      scratch_.total[r] = scratch_.total[r] * factor[i] + Vec::sum(sum);
    }
  }

  // Masks what a row does not see; returns its highest score in this tile.
  float mask_row(const Tile<KV>& tile, int r) {
    float* scores = scratch_.scores + r * kScoreStride;
    Vec best = Vec::all(kMasked);
    for (int i = 0; i < tile.count; ++i) {
      const int visible = tile.visible[i] >= 0 ? tile.visible[i]
                                               : visible_keys(scratch_.limits[r], *tile.pages[i]);
      for (int v = 0; v < kVecsPerPage; ++v, scores += Vec::kLanes) {
        Vec x = Vec::load(scores);
        if (visible < kPageTokens) {
          x = Vec::first_of(visible - v * Vec::kLanes, x, Vec::all(kMasked));
          x.store(scores);
        }
        best = Vec::max(best, x);
      }
    }
    return Vec::highest(best);
  }

  // Adds the weighted values; a few dimensions at a time meet all rows.
  void add_values(const Tile<KV>& tile, const float* factor) {
    const int wide = (rows_ <= Vec::kFewRows ? Vec::kWideFewRows : Vec::kWide) * Vec::kLanes;
    for (int d = 0; d < call_.dim; d += wide) {
      const int end = least(d + wide, call_.dim);
      const int first = kTilePages * d / call_.dim;
      const int last = kTilePages * end / call_.dim;
      for (int r = 0; r < rows_; r += Vec::kRowBlock) {
        fetch(tile.next_keys + first, last - first, r);
        add_values(tile, r, d, end, factor + r);
      }
    }
  }

  // Dimensions [d, end) of a block of rows.
  void add_values(const Tile<KV>& tile, int first_row, int d, int end, const float* factor) {
    int visible[kTilePages];
    for (int i = 0; i < tile.count; ++i) {
      visible[i] = visible_keys(block_limit(first_row), *tile.pages[i]);
    }
    const float* weights = scratch_.scores + first_row * kScoreStride;
    float* acc = scratch_.acc + first_row * kRowStride;
    for_rows(least(Vec::kRowBlock, rows_ - first_row), [&](auto rows) {
      constexpr int R = decltype(rows)::value;
      constexpr int N = kVectors<R>;
      const auto step = [&](auto wide, int lanes) {
        constexpr int W = decltype(wide)::value;
        value_block<R, W>(weights, tile.values, d, visible, tile.count, call_.dim, lanes, factor,
                          acc + d);
        d += W * Vec::kLanes;
      };
      while (d + N * Vec::kLanes <= end) step(Count<N>(), Vec::kLanes);
      while (d < end) step(Count<1>(), least(Vec::kLanes, end - d));
    });
  }

  void write() {
    const int group = call_.heads / call_.kv_heads;
    for (int r = 0; r < rows_; ++r) {
      const float* acc = scratch_.acc + r * kRowStride;
      float* out;
      Vec factor = Vec::all(1.0f);
      if (part_.partial != nullptr) {
        out = part_.partial + static_cast<int64_t>(r) * (call_.dim + 2);
        out[call_.dim] = scratch_.top[r];
        out[call_.dim + 1] = scratch_.total[r];
      } else {
        const int packed = part_.first + r % head_rows_;
        const int64_t row = part_.rows[packed / group].row;
        const int64_t kv_head = part_.kv_head + r / head_rows_;
        const int64_t head = kv_head * group + packed % group;
        out = call_.out + (row * call_.heads + head) * call_.dim;
        const float total = scratch_.total[r];
        factor = Vec::all(total == 0.0f ? 0.0f : 1.0f / total);
      }
      for_lanes(call_.dim, [&](int64_t d, int n) {
        store_lanes(out + d, Vec::load(acc + d) * factor, n);
      });
    }
  }

  const AttentionCall& call_;
  const Part& part_;
  Scratch& scratch_;
  const int head_rows_;  // packed rows of each KV head, which follow one another
  const int rows_;
  const int64_t page_size_;
  int lowest_ = 0;
  int highest_ = 0;
  int rotation_ = -1;
};

void attend(const AttentionCall& call, PageType type, const Part& part, Scratch& scratch) {
  if (type == PageType::f32) {
    Worker<float>(call, part, scratch).run();
  } else {
    Worker<uint16_t>(call, part, scratch).run();
  }
}

// Flash-Decoding's merge: sums of values weighted by 2^(maximum - highest maximum).
void merge(const AttentionCall& call, const float* partials, const MergeRow& row) {
  const int dim = call.dim;
  float top = kNothing;
  for (int i = 0; i < row.count; ++i) {
    const float here = partials[row.partials[i] + dim];
    top = here > top ? here : top;
  }
  float total = 0.0f;
  float* out = call.out + row.out;
  for_lanes(dim, [&](int64_t d, int n) { store_lanes(out + d, Vec::zero(), n); });
  for (int i = 0; i < row.count; ++i) {
    const float* part = partials + row.partials[i];
    alignas(64) float weight[16];
    exp2(Vec::all(part[dim] - top)).store(weight);
    const Vec factor = Vec::all(weight[0]);
    total += part[dim + 1] * weight[0];
    for_lanes(dim, [&](int64_t d, int n) {
      store_lanes(out + d, Vec::fma(load_lanes(part + d, n), factor, load_lanes(out + d, n)), n);
    });
  }
  const Vec factor = Vec::all(total == 0.0f ? 0.0f : 1.0f / total);
  for_lanes(dim, [&](int64_t d, int n) {
    store_lanes(out + d, load_lanes(out + d, n) * factor, n);
  });
}

}  // namespace
