// grad_values of a batch of one: the outer product of grad_output and input at the connections.
#pragma once

#include <algorithm>
#include <type_traits>

#include "gathered.h"
#include "parallel.h"
#include "scratch.h"
#include "short_rows.h"

namespace sparselinear {

// In CSR order, in which no permutation is needed: there is no sum that a pass over columns would share.
template <class A, class S>
void outer(const Structure& w, const Activations<const S>& grad_output, const Activations<const S>& input,
           S* grad_values) {
  // Gathered where they are if they lie side by side, in the type of the product.
  const bool in_place = std::is_same_v<A, S> && input.feature_stride == 1;
  const Scratch scratch(in_place ? 0 : input.features * sizeof(A));
  const A* x = scratch.as<A>();
  if constexpr (std::is_same_v<A, S>)
    if (in_place) x = input.data;
  if (!in_place)
    for (int64_t f = 0; f < input.features; ++f) scratch.as<A>()[f] = load_one(input.at(0, f));
  // grad_values first to last; gradient(k) is of grad_output, for kGathered connections from k on.
  const auto multiply = [=](int64_t first, int64_t last, const auto& gradient) {
    by_vectors<A>(
        first, last,
        [&](int64_t k) __attribute__((always_inline)) {
          store<kGathered<A>>(grad_values + k, gradient(k) * gathered(x, w.index + k));
        },
        [&](int64_t k) { store_one(grad_values + k, gradient(k)[0] * x[w.index[k]]); });
  };
  parallel_for(w.nnz(), 1 << 14, [&](int64_t first, int64_t last) {
    int64_t row =
        std::upper_bound(w.offsets, w.offsets + w.rows + 1, static_cast<Index>(first)) - w.offsets - 1;
    for (int64_t k = first; k < last;) {
      const Span span{w.offsets + row, std::min(kBlock, w.rows - row)};
      const int64_t stop = std::min<int64_t>(last, span.offsets[span.rows]);
      const auto of_row = [&](int64_t r) { return load_one(grad_output.at(0, row + r)); };
      if (has_short_rows(span)) {
        const OfRows<A> gradient(span, of_row);
        multiply(k, stop, [&](int64_t c) { return load<kGathered<A>>(&gradient[c]); });
        k = stop;
      } else {
        for (int64_t r = 0; k < stop; ++r) {
          const int64_t end = std::min<int64_t>(stop, span.offsets[r + 1]);
          const auto gradient = of_row(r) - Vector<A, kGathered<A>>{};  // a zero keeps its sign
          multiply(k, end, [=](int64_t) { return gradient; });
          k = end;
        }
      }
      row += span.rows;
    }
  });
}

}  // namespace sparselinear
