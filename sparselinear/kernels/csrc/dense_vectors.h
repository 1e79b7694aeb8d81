// Products of a W that is nearly dense, on the vector units: blocks of it are written out with their zeros
// and multiplied as a dense matrix is. grad_values come as dense blocks too, of which the connections are
// kept.
//
// By connections a multiply-add takes a load; here a row of activations is loaded once for kRows rows of W.
// The order of the loops is that of Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication,
// ACM Transactions on Mathematical Software 34 (2008).
#pragma once

#include <atomic>

#include "micro.h"
#include "parallel.h"
#include "scratch.h"

namespace sparselinear {

// Rows of W whose sums, of four vectors each, are in registers together. There are 32 registers, or 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int64_t kRows = 6;
#else
constexpr int64_t kRows = 3;
#endif
// Rows of W in a task, for which the activations are read once more from the last-level cache; bytes of a
// panel that are worked through at a time, half of a first-level cache; and samples for which W is written
// out once.
constexpr int64_t kTaskRows = 96, kDepthBytes = 16 << 10, kDenseSamples = 512;
template <class A>
constexpr int64_t kDenseWidth = 4 * kLanes<A>;
template <class A>
constexpr int64_t kDenseDepth = kDepthBytes / sizeof(A) / kDenseWidth<A>;

// sums (+)= W panel, for kRows rows of W, (depth, kRows), and a panel, (depth, kDenseWidth).
template <class A>
void multiply_dense(const A* w, const A* panel, int64_t depth, bool add, Rows<A> sums) {
  constexpr int L = kLanes<A>, V = 4;
  using Vec = Vector<A, L>;
  Vec sum[kRows][V] = {};
  for (int64_t d = 0; d < depth; ++d, w += kRows, panel += V * L) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      Vec y = load<L>(panel + v * L);
      keep_in_register(y);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sum[r][v] += w[r] * y;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      A* const to = sums.row(r) + v * L;
      if (add) sum[r][v] += load<L>(to);
      store<L, A>(to, sum[r][v]);
    }
}

// Activations as panels, (panels, features, kDenseWidth), with zeros after the last sample.
template <class A, class S>
class DensePanels {
 public:
  explicit DensePanels(const Activations<const S>& from)
      : features_(from.features), scratch_(round_up(from.batch, kWidth) * features_ * sizeof(A)) {
    constexpr int64_t kFeatures = 256;  // that one task packs
    const auto packing = sparselinear::packing<A, S>(kLanes<A>);
    const int64_t parts = ceil_div(features_, kFeatures);
    for_each_task(ceil_div(from.batch, kWidth) * parts, [&](int64_t task) {
      const int64_t panel = task / parts, first = task % parts * kFeatures,
                    last = std::min(first + kFeatures, features_), sample = panel * kWidth;
      A* const to = scratch_.template as<A>() + (panel * features_ + first) * kWidth;
      packing.pack(from, first, last, sample, std::min(kWidth, from.batch - sample), to, kWidth);
      Vector<A, kLanes<A>> nothing = {};
      for (int64_t i = 0; i < (last - first) * kWidth; i += kLanes<A>)
        nothing += A(0) * load<kLanes<A>>(to + i);
      for (int lane = 0; lane < kLanes<A>; ++lane)
        if (nothing[lane] != 0) finite_.store(false, std::memory_order_relaxed);
    });
  }
  // Whether all numbers are finite, so that zeros times them are nothing.
  bool finite() const {
    return finite_;
  }
  const A* at(int64_t panel, int64_t feature) const {
    return scratch_.template as<A>() + (panel * features_ + feature) * kWidth;
  }

 private:
  static constexpr int64_t kWidth = kDenseWidth<A>;
  int64_t features_;
  Scratch scratch_;
  std::atomic<bool> finite_{true};
};

// Batch and features in each other's place.
template <class S>
Activations<S> exchanged(const Activations<S>& from) {
  return {from.data, from.features, from.batch, from.feature_stride, from.batch_stride};
}

// Rows of W in each task: few enough that all threads have some.
inline int64_t dense_task(int64_t rows) {
  const int64_t fair = ceil_div(rows, 4 * thread_count());
  return std::min(kTaskRows, round_up(fair, kRows));
}

// The connections of rows `first` to first + rows in the columns from `from` on, below `limit`, as groups of
// (columns, kRows) with zeros between them. `place` is where each row goes on.
template <class A>
void write_out(const Sparse<A>& w, int64_t first, int64_t rows, int64_t from, int64_t limit, Index* place,
               A* to) {
  const int64_t columns = limit - from;
  for (int64_t r = 0; r < rows; r += kRows, to += columns * kRows) {
    std::fill_n(to, columns * kRows, A(0));
    for (int64_t i = 0; i < std::min(kRows, rows - r); ++i) {
      const int64_t begin = place[r + i], end = w.offsets[first + r + i + 1];
      int64_t k = begin;
      for (; k < end && w.index[k] < limit; ++k) to[(w.index[k] - from) * kRows + i] = w.values[k];
      for (int64_t j = k; j < std::min(2 * k - begin, end); j += kPerLine<A>) {  // as many of the next
        __builtin_prefetch(w.index + j);
        __builtin_prefetch(w.values + j);
      }
      place[r + i] = static_cast<Index>(k);
    }
  }
}

// output = W input + bias. False, and the output is not valid, if there are numbers that are not finite.
template <class A, class S>
bool spmm_with_zeros(const Sparse<A>& w, const Activations<const S>& input, const S* bias,
                     const Activations<S>& output) {
  constexpr int64_t kWidth = kDenseWidth<A>, kDepth = kDenseDepth<A>;
  const auto packing = sparselinear::packing<A, S>(kLanes<A>);
  const int64_t most = dense_task(w.rows);
  for (int64_t sample = 0; sample < input.batch; sample += kDenseSamples) {
    const auto from = samples_of(input, sample, kDenseSamples);
    const auto to = samples_of(output, sample, kDenseSamples);
    const DensePanels<A, S> x(from);
    if (!x.finite()) return false;
    const int64_t panels = ceil_div(from.batch, kWidth);
    for_each_task(ceil_div(w.rows, most), [&](int64_t task) {
      const int64_t first = task * most, rows = std::min(most, w.rows - first);
      const Scratch scratch(kTaskRows * (kDepth + panels * kWidth) * sizeof(A));
      A *const block = scratch.as<A>(), *const sums = block + kTaskRows * kDepth;
      Index place[kTaskRows];
      std::copy_n(w.offsets + first, rows, place);
      for (int64_t column = 0; column < from.features; column += kDepth) {
        const int64_t limit = std::min(column + kDepth, from.features), depth = limit - column;
        write_out(w, first, rows, column, limit, place, block);
        for (int64_t p = 0; p < panels; ++p)
          for (int64_t r = 0; r < rows; r += kRows)
            multiply_dense(block + r * depth, x.at(p, column), depth, column > 0,
                           Rows<A>{sums + (p * kTaskRows + r) * kWidth, kWidth});
      }
      for (int64_t p = 0; p < panels; ++p)
        packing.unpack(sums + p * kTaskRows * kWidth, kWidth, first, first + rows, p * kWidth,
                       std::min(kWidth, from.batch - p * kWidth), bias, to);
    });
  }
  return true;
}

// grad_values = grad_output^T input at the connections of W, in CSR order; its rows are the features of
// grad_output.
template <class A, class S>
void sddmm_with_zeros(const Sparse<A>& w, const Activations<const S>& grad_output,
                      const Activations<const S>& input, A* grad_values) {
  // As many panels of products are written before the connections are picked, so that these are many.
  constexpr int64_t kTogether = 4, kWidth = kDenseWidth<A>, kDepth = kDenseDepth<A>;
  const int64_t most = dense_task(w.rows), panels = ceil_div(input.features, kWidth);
  for (int64_t sample = 0; sample < input.batch; sample += kDenseSamples) {
    const auto own = samples_of(grad_output, sample, kDenseSamples);
    const DensePanels<A, S> x(exchanged(samples_of(input, sample, kDenseSamples)));
    const int64_t depth = own.batch;
    for_each_task(ceil_div(w.rows, most), [&](int64_t task) {
      const int64_t first = task * most, rows = std::min(most, w.rows - first);
      const Scratch scratch(kTaskRows * (depth + kTogether * kWidth) * sizeof(A));
      A *const block = scratch.as<A>(), *const products = block + kTaskRows * depth;
      for (int64_t r = 0; r < rows; r += kRows)
        for (int64_t s = 0; s < depth; ++s)
          for (int64_t i = 0; i < kRows; ++i)
            block[r * depth + s * kRows + i] = r + i < rows ? load_one(own.at(s, first + r + i)) : A(0);
      Index place[kTaskRows];
      std::copy_n(w.offsets + first, rows, place);
      for (int64_t p = 0; p < panels; p += kTogether) {
        const int64_t together = std::min(kTogether, panels - p);
        for (int64_t q = 0; q < together; ++q)
          for (int64_t d = 0; d < depth; d += kDepth)
            for (int64_t r = 0; r < rows; r += kRows)
              multiply_dense(block + r * depth + d * kRows, x.at(p + q, d), std::min(kDepth, depth - d),
                             d > 0, Rows<A>{products + (r * kTogether + q) * kWidth, kTogether * kWidth});
        const int64_t column = p * kWidth, limit = column + together * kWidth;
        for (int64_t r = 0; r < rows; ++r) {
          const A* const row = products + r * kTogether * kWidth;
          const int64_t end = w.offsets[first + r + 1];
          int64_t k = place[r];
          for (; k < end && w.index[k] < limit; ++k) {
            const A found = row[w.index[k] - column];
            grad_values[k] = sample ? grad_values[k] + found : found;
          }
          place[r] = static_cast<Index>(k);
        }
      }
    });
  }
}

}  // namespace sparselinear
