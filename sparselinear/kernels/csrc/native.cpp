// The operators of the native kernel, sparselinear::spmm, scatter, sddmm and backward, for the types of the
// tensors they are called with.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "typed.h"

namespace sparselinear {
namespace {

// Calls f(Typed<S, I>()) for the types of values and of indices.
template <class F>
void with_typed(const Tensor& values, const Tensor& index, const F& f) {
  with_types(values, index, [&](auto scalar, auto integer) {
    f(Typed<typename decltype(scalar)::type, typename decltype(integer)::type>());
  });
}

Tensor spmm_operator(const Tensor& offsets, const Tensor& index, const Tensor& values,
                     const std::optional<Tensor>& permutation, const Tensor& input,
                     const std::optional<Tensor>& bias) {
  Tensor output = empty_activations(input, offsets.size(0) - 1);
  with_typed(values, index,
             [&](auto typed) { typed.spmm({offsets, index}, values, permutation, input, bias, output); });
  return output;
}

Tensor scatter_operator(const Tensor& crow_indices, const Tensor& col_indices, const Tensor& values,
                        const Tensor& grad_output, int64_t in_features) {
  Tensor grad_input = empty_activations(grad_output, in_features);
  with_typed(values, col_indices, [&](auto typed) {
    typed.scatter({crow_indices, col_indices}, values, grad_output, grad_input);
  });
  return grad_input;
}

Tensor sddmm_operator(const Tensor& crow_indices, const Tensor& col_indices, const Tensor& grad_output,
                      const Tensor& input) {
  Tensor grad_values = empty_values(input, col_indices.size(0));
  with_typed(input, col_indices,
             [&](auto typed) { typed.sddmm({crow_indices, col_indices}, grad_output, input, grad_values); });
  return grad_values;
}

// Without the columns of W grad_input is summed up by its rows.
std::tuple<Tensor, Tensor> backward_operator(const Tensor& crow_indices, const Tensor& col_indices,
                                             const std::optional<Tensor>& ccol_indices,
                                             const std::optional<Tensor>& row_indices,
                                             const std::optional<Tensor>& permutation, const Tensor& values,
                                             const Tensor& grad_output, const Tensor& input) {
  const Structure rows{crow_indices, col_indices};
  Tensor grad_input = empty_activations(grad_output, input.size(1));
  Tensor grad_values = empty_values(input, rows.nnz());
  with_typed(values, col_indices, [&](auto typed) {
    if (permutation) {
      typed.backward(rows, {*ccol_indices, *row_indices}, *permutation, values, grad_output, input,
                     grad_input, grad_values);
    } else {
      typed.scatter(rows, values, grad_output, grad_input);
      typed.sddmm(rows, grad_output, input, grad_values);
    }
  });
  return {grad_input, grad_values};
}

}  // namespace

STABLE_TORCH_LIBRARY(sparselinear, library) {
  library.def(
      "spmm(Tensor offsets, Tensor index, Tensor values, Tensor? permutation, Tensor input, Tensor? bias)"
      " -> Tensor");
  library.def(
      "scatter(Tensor crow_indices, Tensor col_indices, Tensor values, Tensor grad_output, int in_features)"
      " -> Tensor");
  library.def("sddmm(Tensor crow_indices, Tensor col_indices, Tensor grad_output, Tensor input) -> Tensor");
  library.def(
      "backward(Tensor crow_indices, Tensor col_indices, Tensor? ccol_indices, Tensor? row_indices,"
      " Tensor? permutation, Tensor values, Tensor grad_output, Tensor input) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(sparselinear, CPU, library) {
  library.impl("spmm", TORCH_BOX(&spmm_operator));
  library.impl("scatter", TORCH_BOX(&scatter_operator));
  library.impl("sddmm", TORCH_BOX(&sddmm_operator));
  library.impl("backward", TORCH_BOX(&backward_operator));
}

}  // namespace sparselinear
