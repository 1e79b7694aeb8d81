// grad_input of a small batch by the rows of W, each of which adds to the sums of its columns.
//
// By columns, values would first have to come into their order, which costs a connection more than a vector
// of samples does. So the sums are read and written at every connection instead, while they are in a cache.
#pragma once

#include <algorithm>
#include <vector>

#include "panels.h"

namespace sparselinear {

// Pieces of W, by its rows, that have sums of their own: fewer where few connections would pay for these.
// They depend on the pattern alone, as sums are added up by piece. Both gradients, 2 threads, Zen 5, over
// those by columns: 200,000 features, 20 a column, batch 8, 2 and 4 pieces 0.60, 0.84; scale-free 50,000,
// degree 30, batch 16, 2, 4 and 7 pieces 0.71, 0.78, 1.1; 4096 x 4096, 10 %, batch 16, 4, 8 and 16 pieces
// 0.81, 0.82, 0.93.
inline int64_t pieces_of(int64_t nnz, int64_t columns) {
  const int64_t degree = nnz / std::max<int64_t>(columns, 1);
  return degree < 32 ? 2 : degree < 128 ? 4 : 8;
}

// Limits of groups of columns with about as many connections each, by a sample that no regular pattern is in
// step with: multiples of the golden section.
inline std::vector<Index> limits_of(const Index* index, int64_t nnz, int64_t columns, int64_t groups) {
  constexpr uint64_t kGolden = 0x9E3779B97F4A7C15;
  constexpr int64_t kSamples = 16;  // of each group
  std::vector<Index> found, limits{0};
  for (int64_t i = 0; groups > 1 && i < kSamples * groups; ++i)
    found.push_back(index[(static_cast<uint64_t>(i) * kGolden >> 32) * nnz >> 32]);
  std::sort(found.begin(), found.end());
  for (int64_t g = 1; g < groups; ++g) limits.push_back(found[kSamples * g]);
  limits.push_back(static_cast<Index>(columns));
  return limits;
}

// One task does all pieces of a small W. Where there are more threads than pieces, a task has a group of the
// columns of a piece: each sum is taken in the order of the rows, however many groups there are.
template <class A, class S>
void scatter(const Plan<A>& plan, const Sparse<A>& w, const Activations<const S>& grad_output,
             const Activations<S>& grad_input) {
  constexpr int64_t kFeatures = 256, kConnections = 4096;  // results in a task; what is worth one
  const auto packing = sparselinear::packing<A, S>(plan.micro.lanes);
  const int64_t width = plan.micro.width, features = grad_input.features, size = features * width,
                nnz = w.nnz(), pieces = pieces_of(nnz, features), worth = nnz / kConnections,
                shares = worth > 1 ? pieces : 1, threads = thread_count(),
                groups = std::clamp<int64_t>(worth / pieces, 1, ceil_div(threads, pieces));
  const Panels<A, S> panels(grad_output, packing, plan);
  const auto limits = limits_of(w.index, nnz, features, groups);
  const auto place = [&](int64_t piece) -> Place {
    const int64_t k = nnz * piece / pieces;
    return {std::upper_bound(w.offsets, w.offsets + w.rows + 1, static_cast<Index>(k)) - w.offsets - 1, k};
  };
  const Scratch scratch(pieces * size * sizeof(A));
  A* const sums = scratch.as<A>();
  const auto add = [&](const Panel<A>& panel, const Slice&, int64_t task) {
    const int64_t share = task / groups, group = task % groups;
    const Columns columns{limits[group], limits[group + 1]};
    for (int64_t piece = share; piece < pieces; piece += shares) {
      A* const own = sums + piece * size;
      std::fill(own + columns.first * width, own + columns.limit * width, A(0));
      plan.micro.scatter(panel, w, {place(piece), place(piece + 1)}, columns, own);
    }
  };
  const auto add_up = [&](const Slice& slice) {
    for_each_task(ceil_div(features, kFeatures), [&](int64_t part) {
      const int64_t first = part * kFeatures, last = std::min(first + kFeatures, features);
      for (int64_t piece = 1; piece < pieces; ++piece)
        for (int64_t i = first * width; i < last * width; ++i) sums[i] += sums[piece * size + i];
      packing.unpack(sums + first * width, width, first, last, slice.sample, slice.count, nullptr,
                     grad_input);
    });
  };
  panels.shared(shares * groups, add, add_up);
}

}  // namespace sparselinear
