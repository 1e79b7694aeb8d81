// The operators for one type of values, S, and one of indices, I: from tensors to the products of products.h,
// scatter.h, outer.h and dense_vectors.h, as the rules say. Instantiated in typed_full.cpp and
// typed_half.cpp, which are compiled side by side.
#pragma once

#include "tensors.h"

namespace sparselinear {

template <class S, class I>
struct Typed {
  // `order` is the position in `values` of each connection of w; without it they are in its order.
  static void spmm(const Structure& w, const Tensor& values, const std::optional<Tensor>& order,
                   const Tensor& input, const std::optional<Tensor>& bias, const Tensor& output);
  // grad_input, by the rows of W.
  static void scatter(const Structure& rows, const Tensor& values, const Tensor& grad_output,
                      const Tensor& grad_input);
  static void sddmm(const Structure& rows, const Tensor& grad_output, const Tensor& input,
                    const Tensor& grad_values);
  // Both gradients, in one pass over the columns of W or in two; `order` is that of the columns.
  static void backward(const Structure& rows, const Structure& columns, const Tensor& order,
                       const Tensor& values, const Tensor& grad_output, const Tensor& input,
                       const Tensor& grad_input, const Tensor& grad_values);
};

}  // namespace sparselinear
