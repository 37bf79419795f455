#include "schedule.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <utility>

#include "instruction_set.hpp"
#include "thread_pool.hpp"

namespace game_agent {

namespace {

// Cost is counted in (packed row, page) pairs. Loading a page costs about as much as this many rows.
constexpr int64_t kLoadCost = 4;
// Below this cost (about 20 microseconds) work is not handed to another thread.
constexpr int64_t kSmallCost = 256;
// Parts per thread: enough to even out threads that come late or run slower.
constexpr int64_t kPartsPerThread = 4;
// Rows are packed with other runs' rows only while there are few of them (a decode step, a short
// question): longer runs use a page many times as it is.
constexpr int kMaxShareRows = 16;
// Sharing has a run's results merged once more; fewer pages are not worth that.
constexpr int64_t kMinSharePages = 8;
// Fewer pages come from a near cache in any order; then each head is a part, and nothing is merged.
constexpr int64_t kMinInOrderPages = 64;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool sees(int limit, const PageRef& page) { return limit > page.position; }

// For each segment the first one of its run, without a gap, that has equal angles.
std::vector<int> equal_angles(const PlanView& plan) {
  std::vector<int> first(plan.num_segments);
  const size_t bytes = sizeof(float) * plan.half;
  for (int s = 0; s < plan.num_segments; ++s) {
    const int64_t here = static_cast<int64_t>(s) * plan.half;
    const int64_t before = here - plan.half;
    const bool same = s > 0 && std::memcmp(plan.cos + here, plan.cos + before, bytes) == 0 &&
                      std::memcmp(plan.sin + here, plan.sin + before, bytes) == 0;
    first[s] = same ? first[s - 1] : s;
  }
  return first;
}

int num_pages(const PlanView& plan, int segment) {
  return static_cast<int>(ceil_div(plan.lengths[segment], kPageTokens));
}

bool same_pages(const PlanView& plan, int a, int b) {
  const int32_t* from = plan.pages + plan.page_starts[a];
  return std::equal(from, from + num_pages(plan, a), plan.pages + plan.page_starts[b]);
}

Scratch& scratch() {
  thread_local const std::unique_ptr<Scratch> memory(new Scratch);
  return *memory;
}

}  // namespace

Schedule::Schedule(const PlanView& plan, int heads, int kv_heads, int dim)
    : num_runs_(plan.num_runs),
      heads_(heads),
      kv_heads_(kv_heads),
      dim_(dim),
      half_(plan.half),
      cos_(plan.cos, plan.cos + static_cast<int64_t>(plan.num_segments) * plan.half),
      sin_(plan.sin, plan.sin + static_cast<int64_t>(plan.num_segments) * plan.half) {
  const std::vector<int> angles = equal_angles(plan);
  const std::vector<Group> groups = share_segments(plan);
  std::vector<int> num_groups(plan.num_runs);
  for (const Group& group : groups) {
    for (int run : group.runs) ++num_groups[run];
  }
  for (const Group& group : groups) {
    const bool only = std::all_of(group.runs.begin(), group.runs.end(),
                                  [&](int run) { return num_groups[run] == 1; });
    add_group(plan, angles, group, only);
  }
  split_tiles();
  plan_merges();
}

// Segments that the same runs read form a group; what is left of a run is a group of its own.
std::vector<Schedule::Group> Schedule::share_segments(const PlanView& plan) const {
  using Readers = std::vector<std::pair<int, int>>;  // (run, segment)
  std::vector<std::vector<int>> own(plan.num_runs);
  std::map<int32_t, Readers> readers;  // by first page
  for (int run = 0; run < plan.num_runs; ++run) {
    const int first = plan.run_rows[run], end = plan.run_rows[run + 1];
    const int32_t lowest =
        first == end ? 0 : *std::min_element(plan.row_positions + first, plan.row_positions + end);
    for (int s = plan.run_segments[run]; s < plan.run_segments[run + 1]; ++s) {
      const bool few = plan.num_runs > 1 && end - first <= kMaxShareRows && end > first;
      const bool seen = plan.lengths[s] > 0 && lowest + 1 - plan.positions[s] >= plan.lengths[s];
      Readers* list = few && seen ? &readers[plan.pages[plan.page_starts[s]]] : nullptr;
      const bool fits = list != nullptr &&
                        (list->empty() || (list->back().first != run &&
                                           plan.lengths[s] == plan.lengths[list->back().second] &&
                                           plan.positions[s] ==
                                               plan.positions[list->back().second] &&
                                           same_pages(plan, s, list->back().second)));
      if (fits) {
        list->emplace_back(run, s);
      } else {
        own[run].push_back(s);
      }
    }
  }
  std::map<std::vector<int>, Group> shared;  // by runs
  for (const auto& [page, list] : readers) {
    std::vector<int> runs;
    for (const auto& reader : list) runs.push_back(reader.first);
    Group& group = shared[runs];
    group.runs = runs;
    group.segments.resize(runs.size());
    for (size_t i = 0; i < list.size(); ++i) group.segments[i].push_back(list[i].second);
  }
  std::vector<Group> groups;
  for (auto& [runs, group] : shared) {
    int64_t pages = 0;
    for (int s : group.segments[0]) pages += num_pages(plan, s);
    if (runs.size() > 1 && pages >= kMinSharePages) {
      groups.push_back(std::move(group));
    } else {
      for (size_t i = 0; i < runs.size(); ++i) {
        std::vector<int>& mine = own[runs[i]];
        mine.insert(mine.end(), group.segments[i].begin(), group.segments[i].end());
      }
    }
  }
  std::vector<bool> covered(plan.num_runs);
  for (const Group& group : groups) {
    for (int run : group.runs) covered[run] = true;
  }
  for (int run = 0; run < plan.num_runs; ++run) {
    std::sort(own[run].begin(), own[run].end());
    if (!own[run].empty() || !covered[run]) groups.push_back({{run}, {own[run]}});
  }
  return groups;
}

void Schedule::add_group(const PlanView& plan, const std::vector<int>& angles, const Group& group,
                         bool only) {
  const auto first_page = static_cast<int64_t>(pages_.size());
  const auto first_row = static_cast<int64_t>(rows_.size());
  for (size_t slot = 0; slot < group.runs.size(); ++slot) {
    const int run = group.runs[slot];
    for (int row = plan.run_rows[run]; row < plan.run_rows[run + 1]; ++row) {
      rows_.push_back({row, plan.row_positions[row], static_cast<int32_t>(slot)});
    }
  }
  add_pages(plan, angles, group);
  add_tiles(first_page, first_row, only);
}

void Schedule::add_pages(const PlanView& plan, const std::vector<int>& angles,
                         const Group& group) {
  const size_t num_slots = group.runs.size();
  for (size_t i = 0; i < group.segments[0].size(); ++i) {
    const auto angle = [&](size_t slot, size_t k) { return angles[group.segments[slot][k]]; };
    bool same = i > 0;
    for (size_t slot = 0; slot < num_slots && same; ++slot) {
      same = angle(slot, i) == angle(slot, i - 1);
    }
    if (!same) {
      for (size_t slot = 0; slot < num_slots; ++slot) rotations_.push_back(angle(slot, i));
    }
    const auto rotation = static_cast<int32_t>(rotations_.size() - num_slots);
    const int s = group.segments[0][i];
    for (int k = 0; k < num_pages(plan, s); ++k) {
      const int begin = k * kPageTokens;
      pages_.push_back({plan.pages[plan.page_starts[s] + k], plan.positions[s] + begin,
                        std::min(kPageTokens, plan.lengths[s] - begin), rotation});
    }
    const int run = group.runs[0];
    if (num_slots == 1 && s + 1 == plan.run_segments[run + 1] && plan.lengths[s] > 0) {
      last_pages_.push_back(static_cast<int64_t>(pages_.size()) - 1);
    }
  }
}

bool Schedule::advance() {
  const auto has_room = [&](int64_t page) { return pages_[page].length < kPageTokens; };
  if (static_cast<int>(last_pages_.size()) != num_runs_ ||
      !std::all_of(last_pages_.begin(), last_pages_.end(), has_room)) {
    return false;
  }
  for (int64_t page : last_pages_) ++pages_[page].length;
  for (RowRef& row : rows_) ++row.position;
  return true;
}

void Schedule::add_tiles(int64_t first_page, int64_t first_row, bool only) {
  const auto end_page = static_cast<int64_t>(pages_.size());
  const int group = heads_ / kv_heads_;
  const auto packed = static_cast<int>((static_cast<int64_t>(rows_.size()) - first_row) * group);
  if (packed == 0) return;
  constexpr int kBlock = 8;
  const auto even = static_cast<int>(ceil_div(packed, ceil_div(packed, kTileRows)));
  const int size = static_cast<int>(ceil_div(even, kBlock)) * kBlock;
  for (int first = 0; first < packed; first += size) {
    const int last = std::min(first + size, packed);
    int limit = 0;
    for (int p = first; p < last; ++p) {
      limit = std::max(limit, rows_[first_row + p / group].position + 1);
    }
    const auto seen = std::count_if(pages_.begin() + first_page, pages_.end(),
                                    [&](const PageRef& page) { return sees(limit, page); });
    const int64_t cost = seen * (last - first + kLoadCost);
    tiles_.push_back({first_page, end_page, first_row, first, last, limit, only, cost});
    total_cost_ += cost * kv_heads_;
  }
}

int Schedule::heads_of_part(const Tile& tile) const {
  const int rows = tile.last - tile.first;
  const bool in_order = rows <= kFewPackedRows && rows * kv_heads_ <= kTileRows &&
                        tile.cost >= kMinInOrderPages * (rows + kLoadCost);
  return in_order ? kv_heads_ : 1;
}

void Schedule::split_tiles() {
  const int threads = ThreadPool::shared().num_threads();
  const int64_t even = ceil_div(total_cost_, threads * kPartsPerThread);
  const int64_t target = std::max(even, kSmallCost);
  for (const Tile& tile : tiles_) {
    // What a part costs in which all pages are seen.
    const int64_t cost = tile.cost * heads_of_part(tile);
    const bool whole = threads == 1 || cost <= target + target / 2;
    split_tile(tile, whole ? 1 : ceil_div(cost, target));
  }
}

void Schedule::split_tile(const Tile& tile, int64_t num_parts) {
  const int64_t seen = tile.cost / (tile.last - tile.first + kLoadCost);
  num_parts = std::max<int64_t>(1, std::min(num_parts, seen));
  const bool final = tile.only && num_parts == 1;
  int64_t page = tile.first_page, count = 0;
  for (int64_t part = 0; part < num_parts; ++part) {
    const int64_t begin = page;
    for (const int64_t end = seen * (part + 1) / num_parts; count < end; ++page) {
      count += sees(tile.limit, pages_[page]);
    }
    const int num_heads = heads_of_part(tile);
    for (int head = 0; head < kv_heads_; head += num_heads) {
      parts_.push_back({begin, page - begin, tile.first_row, tile.first, tile.last, head, num_heads,
                        final ? -1 : partial_floats_});
      if (!final) partial_floats_ += num_heads * partial_size(tile.last - tile.first);
    }
  }
}

// Which partial results belong to each (row, head).
void Schedule::plan_merges() {
  if (partial_floats_ == 0) return;
  const int group = heads_ / kv_heads_;
  std::map<int64_t, std::vector<int64_t>> partials;
  for (const PartSpec& part : parts_) {
    if (part.partial < 0) continue;
    for (int h = 0; h < part.num_heads; ++h) {
      const int64_t from = part.partial + h * partial_size(part.last - part.first);
      for (int p = part.first; p < part.last; ++p) {
        const int64_t row = rows_[part.first_row + p / group].row;
        const int64_t head = static_cast<int64_t>(part.kv_head + h) * group + p % group;
        partials[(row * heads_ + head) * dim_].push_back(from + partial_size(p - part.first));
      }
    }
  }
  size_t total = 0;
  for (const auto& entry : partials) total += entry.second.size();
  merge_partials_.reserve(total);
  for (const auto& [out, list] : partials) {
    const int64_t* begin = merge_partials_.data() + merge_partials_.size();
    merge_partials_.insert(merge_partials_.end(), list.begin(), list.end());
    merges_.push_back({out, begin, static_cast<int>(list.size())});
  }
}

void Schedule::attend(const float* q, const void* keys, const void* values, PageType type,
                      float scale, float* out) const {
  const AttentionCall call = {q,    keys,  values,      out,         heads_,           kv_heads_,
                              dim_, half_, cos_.data(), sin_.data(), rotations_.data(), scale};
  const KernelTable& table = kernels();
  // Of the calling thread: a schedule may be used by several at a time.
  thread_local std::vector<float> partial_memory;
  if (static_cast<int64_t>(partial_memory.size()) < partial_floats_) {
    partial_memory.resize(partial_floats_);
  }
  float* const partials = partial_memory.data();
  const auto attend_part = [&](int64_t i) {
    const PartSpec& spec = parts_[i];
    Part part = {pages_.data() + spec.first_page,
                 spec.num_pages,
                 rows_.data() + spec.first_row,
                 spec.first,
                 spec.last,
                 spec.kv_head,
                 spec.num_heads,
                 spec.partial < 0 ? nullptr : partials + spec.partial};
    const bool few = spec.last - spec.first <= kFewPackedRows;
    if (few && type == PageType::bf16 && table.attend_few != nullptr) {
      table.attend_few(call, part, scratch());
      return;
    }
    part.num_heads = 1;
    for (int head = 0; head < spec.num_heads; ++head, ++part.kv_head) {
      table.attend(call, type, part, scratch());
      if (part.partial != nullptr) part.partial += partial_size(spec.last - spec.first);
    }
  };
  if (total_cost_ <= 2 * kSmallCost) {
    for (int64_t i = 0; i < num_parts(); ++i) attend_part(i);
  } else {
    ThreadPool::shared().parallel_for(num_parts(), attend_part);
  }
  constexpr int64_t kChunk = 64;
  const auto num_merges = static_cast<int64_t>(merges_.size());
  ThreadPool::shared().parallel_for(ceil_div(num_merges, kChunk), [&](int64_t chunk) {
    const int64_t end = std::min(num_merges, (chunk + 1) * kChunk);
    for (int64_t i = chunk * kChunk; i < end; ++i) table.merge(call, partials, merges_[i]);
  });
}

}  // namespace game_agent
