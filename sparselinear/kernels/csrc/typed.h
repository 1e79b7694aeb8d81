// The operators for one type of values, S, by pointers: which of the products of products.h, scatter.h,
// outer.h and dense_vectors.h run, as the rules say. Instantiated in typed_full.cpp and typed_half.cpp, which
// are compiled side by side.
#pragma once

#include "packing.h"
#include "structure.h"

namespace sparselinear {

template <class S>
struct Typed {
  // `order` is the position in `values` of each connection of w; without it they are in its order.
  static void spmm(const Structure& w, const S* values, const Index* order, const Activations<const S>& input,
                   const S* bias, const Activations<S>& output);
  // grad_input, by the rows of W.
  static void scatter(const Structure& rows, const S* values, const Activations<const S>& grad_output,
                      const Activations<S>& grad_input);
  static void sddmm(const Structure& rows, const Activations<const S>& grad_output,
                    const Activations<const S>& input, S* grad_values);
  // Both gradients, in one pass over the columns of W or in two; `order` is that of the columns.
  static void backward(const Structure& rows, const Structure& columns, const Index* order, const S* values,
                       const Activations<const S>& grad_output, const Activations<const S>& input,
                       const Activations<S>& grad_input, S* grad_values);
};

}  // namespace sparselinear
