// From a plan to parts of equal cost, and their execution. Made once per plan, used in every layer.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.hpp"

namespace game_agent {

// Arrays of a Plan (kernels/game_agent_kernels/plan.py), checked by the caller.
struct PlanView {
  int num_runs;
  int num_segments;
  int half;
  const int32_t* run_rows;
  const int32_t* run_segments;
  const int32_t* page_starts;
  const int32_t* pages;
  const int32_t* lengths;
  const int32_t* positions;
  const float* cos;
  const float* sin;
  const int32_t* row_positions;
};

class Schedule {
 public:
  // Copies what it needs of `plan`.
  Schedule(const PlanView& plan, int heads, int kv_heads, int dim);
  Schedule(const Schedule&) = delete;  // merges_ points into it
  Schedule& operator=(const Schedule&) = delete;

  void attend(const float* q, const void* keys, const void* values, PageType type, float scale,
              float* out) const;

  // Has every run, one row each, see one key more of its last segment, its own frame, and stand
  // behind it. Whether their last pages had room; if not, nothing has changed.
  bool advance();

  int64_t num_parts() const { return static_cast<int64_t>(parts_.size()); }

 private:
  // Rows that attend to the same pages: one run's, or those of several runs that share segments.
  struct Group {
    std::vector<int> runs;
    std::vector<std::vector<int>> segments;  // of each of `runs`, in the same order
  };
  // Packed rows of a group, small enough for one part; the pages it sees, and their cost.
  struct Tile {
    int64_t first_page;
    int64_t end_page;
    int64_t first_row;  // of the group, in rows_
    int first;          // packed rows
    int last;
    int limit;          // highest frame position + 1
    bool only;          // no other group has these rows
    int64_t cost;
  };
  struct PartSpec {
    int64_t first_page;
    int64_t num_pages;
    int64_t first_row;
    int first;
    int last;
    int kv_head;
    int num_heads;
    int64_t partial;  // offset, or -1: final
  };

  std::vector<Group> share_segments(const PlanView& plan) const;
  void add_group(const PlanView& plan, const std::vector<int>& angles, const Group& group,
                 bool only);
  void add_pages(const PlanView& plan, const std::vector<int>& angles, const Group& group);
  void add_tiles(int64_t first_page, int64_t first_row, bool only);
  int heads_of_part(const Tile& tile) const;
  // Floats that the results of so many packed rows of a head take.
  int64_t partial_size(int rows) const { return static_cast<int64_t>(rows) * (dim_ + 2); }
  void split_tiles();
  void split_tile(const Tile& tile, int64_t num_parts);
  void plan_merges();

  int num_runs_;
  int heads_;
  int kv_heads_;
  int dim_;
  int half_;
  std::vector<float> cos_;
  std::vector<float> sin_;
  std::vector<PageRef> pages_;
  std::vector<int64_t> last_pages_;  // of each run's last segment, where no other run reads that
  std::vector<RowRef> rows_;
  std::vector<int32_t> rotations_;
  std::vector<Tile> tiles_;
  std::vector<PartSpec> parts_;
  std::vector<MergeRow> merges_;
  std::vector<int64_t> merge_partials_;
  int64_t partial_floats_ = 0;
  int64_t total_cost_ = 0;
};

}  // namespace game_agent
