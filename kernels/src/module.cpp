// Python bindings: game_agent_kernels._cpu. Tensors come as addresses, which cost a hundredth of a
// DLPack exchange; the Python wrappers have checked their types, shapes and strides.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>

#include "burst.hpp"
#include "decoder.hpp"
#include "instruction_set.hpp"
#include "linear_parts.hpp"
#include "plan_check.hpp"
#include "rows.hpp"
#include "sample.hpp"
#include "schedule.hpp"
#include "thread_pool.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace game_agent {
namespace {

using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Longs = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ReleaseGil = nb::call_guard<nb::gil_scoped_release>;

template <typename T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

template <typename T, typename Array>
ArrayView<T> view(const Array& array) {
  return {array.data(), static_cast<int64_t>(array.size())};
}

// See PlanArrays.
void check_plan_arrays(const Ints& run_rows, const Ints& run_segments, const Ints& page_starts,
                       const Ints& pages, const Ints& lengths, const Ints& positions,
                       const Floats& cos, const Floats& sin, const Ints& row_positions,
                       const Longs& row_slots, int64_t num_pages) {
  const auto size = [](const Floats& angles, int axis) {
    return static_cast<int64_t>(angles.shape(axis));
  };
  check_plan({view<int32_t>(run_rows), view<int32_t>(run_segments), view<int32_t>(page_starts),
              view<int32_t>(pages), view<int32_t>(lengths), view<int32_t>(positions),
              view<int32_t>(row_positions), view<int64_t>(row_slots), size(cos, 0), size(sin, 0),
              size(cos, 1), size(sin, 1)},
             num_pages);
}

PageType page_type(bool bfloat16) { return bfloat16 ? PageType::bf16 : PageType::f32; }

void make_schedule(Schedule* self, Ints run_rows, Ints run_segments, Ints page_starts, Ints pages,
                   Ints lengths, Ints positions, Floats cos, Floats sin, Ints row_positions,
                   int heads, int kv_heads, int dim) {
  const auto half = static_cast<int>(cos.shape(1));
  if (dim < 2 || dim > kMaxDim || dim % 2 != 0) {
    throw std::invalid_argument("head dim " + std::to_string(dim) +
                                " is not supported: it must be even and at most 256");
  }
  if (kv_heads < 1 || heads < 1 || heads % kv_heads != 0) {
    throw std::invalid_argument(std::to_string(heads) + " heads cannot share " +
                                std::to_string(kv_heads) + " KV heads evenly");
  }
  if (2 * half > dim) {
    throw std::invalid_argument("the plan's angles have " + std::to_string(half) +
                                " columns, more than half the head dim " + std::to_string(dim));
  }
  const PlanView view = {static_cast<int>(run_rows.size()) - 1,
                         static_cast<int>(lengths.size()),
                         half,
                         run_rows.data(),
                         run_segments.data(),
                         page_starts.data(),
                         pages.data(),
                         lengths.data(),
                         positions.data(),
                         cos.data(),
                         sin.data(),
                         row_positions.data()};
  const nb::gil_scoped_release release;
  new (self) Schedule(view, heads, kv_heads, dim);
}

void attend(const Schedule& self, uintptr_t q, uintptr_t keys, uintptr_t values, uintptr_t out,
            float scale, bool bfloat16) {
  self.attend(pointer<const float>(q), pointer<const void>(keys), pointer<const void>(values),
              page_type(bfloat16), scale, pointer<float>(out));
}

// residual and sum are 0 for a plain norm.
void norm(uintptr_t x, uintptr_t residual, uintptr_t weight, uintptr_t out, uintptr_t sum,
          int64_t rows, int64_t dim, float eps) {
  const NormCall call = {pointer<const float>(x),
                         pointer<const float>(residual),
                         pointer<const float>(weight),
                         pointer<float>(out),
                         pointer<float>(sum),
                         dim,
                         eps};
  const KernelTable& table = kernels();
  for_row_chunks(rows, dim, [&](int64_t first, int64_t last) { table.norm(call, first, last); });
}

void silu_mul(uintptr_t gate_up, uintptr_t out, int64_t rows, int64_t inner) {
  const KernelTable& table = kernels();
  for_row_chunks(rows, 4 * inner, [&](int64_t first, int64_t last) {
    table.silu_mul(pointer<const float>(gate_up), pointer<float>(out), inner, first, last);
  });
}

void check_slots(const int64_t* slots, int64_t rows, int64_t num_pages) {
  for (int64_t row = 0; row < rows; ++row) {
    if (slots[row] < 0 || slots[row] >= num_pages * kPageTokens) {
      throw std::out_of_range("row " + std::to_string(row) + " is written to slot " +
                              std::to_string(slots[row]) + ", outside the " +
                              std::to_string(num_pages) + " pages");
    }
  }
}

void rope_store(uintptr_t qkv, uintptr_t cos, uintptr_t sin, uintptr_t slots, uintptr_t keys,
                uintptr_t values, uintptr_t q_norm, uintptr_t k_norm, uintptr_t q_out,
                int64_t rows, int64_t num_pages, int heads, int kv_heads, int dim, int half,
                float eps, bool bfloat16) {
  const RopeStoreCall call = {pointer<const float>(qkv),
                              pointer<const float>(cos),
                              pointer<const float>(sin),
                              pointer<const int64_t>(slots),
                              page_type(bfloat16),
                              pointer<void>(keys),
                              pointer<void>(values),
                              pointer<const float>(q_norm),
                              pointer<const float>(k_norm),
                              pointer<float>(q_out),
                              heads,
                              kv_heads,
                              dim,
                              half,
                              eps};
  check_slots(call.slots, rows, num_pages);
  const KernelTable& table = kernels();
  const int64_t row_floats = static_cast<int64_t>(heads + 2 * kv_heads) * dim;
  for_row_chunks(rows, row_floats, [&](int64_t first, int64_t last) {
    table.rope_store(call, first, last);
  });
}

// The bits of a weight; of float16, which has as many as bfloat16, the negative.
WeightType weight_type(int kind) {
  switch (kind) {
    case 32:
      return WeightType::f32;
    case 16:
      return WeightType::bf16;
    case -16:
      return WeightType::f16;
    case 8:
      return WeightType::i8;
    default:
      throw std::invalid_argument("no kind of weights has the number " + std::to_string(kind));
  }
}

// kind: see weight_type. scale is 0 unless it is 8, bias where there is none.
void linear(uintptr_t x, uintptr_t panels, int kind, uintptr_t scale, uintptr_t bias, uintptr_t out,
            int64_t rows, int64_t num_in, int64_t num_out) {
  const LinearCall call = {pointer<const float>(x),
                           pointer<const void>(panels),
                           weight_type(kind),
                           pointer<const float>(scale),
                           pointer<const float>(bias),
                           pointer<float>(out),
                           num_in,
                           num_out};
  run_linear(call, rows);
}

// (panels, kind, scale, bias, num_in, num_out), as for linear()
using LinearArgs = std::tuple<uintptr_t, int, uintptr_t, uintptr_t, int64_t, int64_t>;

LinearWeights linear_weights(const LinearArgs& args) {
  const auto& [panels, kind, scale, bias, num_in, num_out] = args;
  return {pointer<const void>(panels), weight_type(kind), pointer<const float>(scale),
          pointer<const float>(bias),  num_in,            num_out};
}

void add_layer(Decoder& self, uintptr_t input_norm, const LinearArgs& qkv, const LinearArgs& out,
               uintptr_t post_norm, const LinearArgs& gate_up, const LinearArgs& down,
               uintptr_t q_norm, uintptr_t k_norm) {
  self.add_layer({pointer<const float>(input_norm), linear_weights(qkv), linear_weights(out),
                  pointer<const float>(post_norm), linear_weights(gate_up), linear_weights(down),
                  pointer<const float>(q_norm), pointer<const float>(k_norm)});
}

void set_head(Decoder& self, uintptr_t norm, const LinearArgs& head) {
  self.set_head(pointer<const float>(norm), linear_weights(head));
}

void decode(const Decoder& self, uintptr_t residual, int64_t rows, uintptr_t cos, uintptr_t sin,
            int half, uintptr_t slots, uintptr_t keys, uintptr_t values, int64_t layer_bytes,
            bool bfloat16, int64_t num_pages, const Schedule& schedule, uintptr_t out_rows,
            int64_t num_out, const Schedule& out_schedule, uintptr_t logits) {
  check_slots(pointer<const int64_t>(slots), rows, num_pages);
  const auto* wanted = pointer<const int64_t>(out_rows);
  for (int64_t i = 0; i < num_out; ++i) {
    if (wanted[i] < (i == 0 ? 0 : wanted[i - 1] + 1) || wanted[i] >= rows) {
      throw std::out_of_range("out_rows must rise from 0 on, below the number of rows");
    }
  }
  self.forward({pointer<float>(residual), rows, pointer<const float>(cos),
                pointer<const float>(sin), half, pointer<const int64_t>(slots),
                pointer<char>(keys), pointer<char>(values), layer_bytes, page_type(bfloat16),
                &schedule, wanted, num_out, &out_schedule, pointer<float>(logits)});
}

// (temperatures, top_ps, top_ks, chances), see Draws
using DrawArgs = std::tuple<uintptr_t, uintptr_t, uintptr_t, uintptr_t>;

Draws draws_of(const DrawArgs& args) {
  const auto& [temperatures, top_ps, top_ks, chances] = args;
  return {pointer<const float>(temperatures), pointer<const float>(top_ps),
          pointer<const int64_t>(top_ks), pointer<const float>(chances)};
}

void sample(uintptr_t logits, int64_t rows, int64_t count, const DrawArgs& draws,
            uintptr_t tokens) {
  sample_rows(pointer<const float>(logits), rows, count, draws_of(draws),
              pointer<int64_t>(tokens));
}

// See Burst. Returns how many passes were made.
int64_t burst(const Decoder& self, Schedule& schedule, int64_t rows, int64_t max_steps,
              double max_s, uintptr_t tokens, uintptr_t positions, uintptr_t slots, uintptr_t embedding,
              int embedding_kind, int64_t hidden, int64_t vocab, uintptr_t cos, uintptr_t sin,
              int half, uintptr_t keys, uintptr_t values, int64_t layer_bytes, bool bfloat16,
              int64_t num_pages, const DrawArgs& draws, uintptr_t stops, int64_t num_stops,
              uintptr_t news, uintptr_t out) {
  check_slots(pointer<const int64_t>(slots), rows * max_steps, num_pages);
  return run_burst(self, schedule,
                   {rows,
                    max_steps,
                    max_s,
                    pointer<const int64_t>(tokens),
                    pointer<const int64_t>(positions),
                    pointer<const int64_t>(slots),
                    pointer<const void>(embedding),
                    weight_type(embedding_kind),
                    hidden,
                    vocab,
                    pointer<const float>(cos),
                    pointer<const float>(sin),
                    half,
                    pointer<char>(keys),
                    pointer<char>(values),
                    layer_bytes,
                    page_type(bfloat16),
                    draws_of(draws),
                    pointer<const int64_t>(stops),
                    num_stops,
                    pointer<const volatile int32_t>(news),
                    pointer<int64_t>(out)});
}

}  // namespace

NB_MODULE(_cpu, m) {
  nb::class_<Schedule>(m, "Schedule")
      .def("__init__", &make_schedule, "run_rows"_a.noconvert(), "run_segments"_a.noconvert(),
           "page_starts"_a.noconvert(), "pages"_a.noconvert(), "lengths"_a.noconvert(),
           "positions"_a.noconvert(), "cos"_a.noconvert(), "sin"_a.noconvert(),
           "row_positions"_a.noconvert(), "heads"_a, "kv_heads"_a, "dim"_a)
      .def("attend", &attend, "q"_a, "keys"_a, "values"_a, "out"_a, "scale"_a, "bfloat16"_a,
           ReleaseGil())
      .def_prop_ro("num_parts", &Schedule::num_parts);
  nb::class_<Decoder>(m, "Decoder")
      .def(
          "__init__",
          [](Decoder* self, int64_t hidden, int64_t inner, int heads, int kv_heads, int dim,
             float eps, float scale) {
            new (self) Decoder({hidden, inner, heads, kv_heads, dim, eps, scale});
          },
          "hidden"_a, "inner"_a, "heads"_a, "kv_heads"_a, "dim"_a, "eps"_a, "scale"_a)
      .def("add_layer", &add_layer, "input_norm"_a, "qkv"_a, "out"_a, "post_norm"_a, "gate_up"_a,
           "down"_a, "q_norm"_a, "k_norm"_a)
      .def("set_head", &set_head, "norm"_a, "head"_a)
      .def("forward", &decode, "residual"_a, "rows"_a, "cos"_a, "sin"_a, "half"_a, "slots"_a,
           "keys"_a, "values"_a, "layer_bytes"_a, "bfloat16"_a, "num_pages"_a, "schedule"_a,
           "out_rows"_a, "num_out"_a, "out_schedule"_a, "logits"_a, ReleaseGil())
      .def("burst", &burst, "schedule"_a, "rows"_a, "max_steps"_a, "max_s"_a, "tokens"_a,
           "positions"_a, "slots"_a, "embedding"_a, "embedding_kind"_a, "hidden"_a, "vocab"_a, "cos"_a, "sin"_a,
           "half"_a, "keys"_a, "values"_a, "layer_bytes"_a, "bfloat16"_a, "num_pages"_a,
           "draws"_a, "stops"_a, "num_stops"_a, "news"_a, "out"_a, ReleaseGil());
  m.def("check_plan", &check_plan_arrays, "run_rows"_a.noconvert(), "run_segments"_a.noconvert(),
        "page_starts"_a.noconvert(), "pages"_a.noconvert(), "lengths"_a.noconvert(),
        "positions"_a.noconvert(), "cos"_a.noconvert(), "sin"_a.noconvert(),
        "row_positions"_a.noconvert(), "row_slots"_a.noconvert(), "num_pages"_a);
  m.def("norm", &norm, "x"_a, "residual"_a, "weight"_a, "out"_a, "sum"_a, "rows"_a, "dim"_a,
        "eps"_a, ReleaseGil());
  m.def("silu_mul", &silu_mul, "gate_up"_a, "out"_a, "rows"_a, "inner"_a, ReleaseGil());
  m.def("rope_store", &rope_store, "qkv"_a, "cos"_a, "sin"_a, "slots"_a, "keys"_a, "values"_a,
        "q_norm"_a, "k_norm"_a, "q_out"_a, "rows"_a, "num_pages"_a, "heads"_a, "kv_heads"_a,
        "dim"_a, "half"_a, "eps"_a, "bfloat16"_a, ReleaseGil());
  m.def("linear", &linear, "x"_a, "panels"_a, "kind"_a, "scale"_a, "bias"_a, "out"_a, "rows"_a, "num_in"_a,
        "num_out"_a, ReleaseGil());
  m.def("sample", &sample, "logits"_a, "rows"_a, "count"_a, "draws"_a, "tokens"_a, ReleaseGil());
  m.attr("HAS_FLOAT16_WEIGHTS") = true;
  m.def("num_threads", [] { return ThreadPool::shared().num_threads(); });
  m.def(
      "set_num_threads", [](int count) { ThreadPool::shared().set_num_threads(count); }, "count"_a,
      ReleaseGil());
  m.def("instruction_sets", &instruction_sets);
  m.def("instruction_set", [] { return std::string(kernels().name); });
  m.def("set_instruction_set", &set_instruction_set, "name"_a);
}

}  // namespace game_agent
