// The operators of the native kernel, sparselinear::spmm, scatter, sddmm and backward, for the types of the
// tensors they are called with; and whether there is a matrix unit for those of amx.cpp. With torch's headers
// at hand, its threads too.
#include <tuple>

#include "amx.h"
#include "parallel_impl.h"
#include "registration.h"
#include "tensors.h"
#include "typed.h"

namespace sparselinear {
namespace {

Tensor spmm_operator(const Tensor& offsets, const Tensor& index, const Tensor& values,
                     const std::optional<Tensor>& permutation, const Tensor& input,
                     const std::optional<Tensor>& bias) {
  const Structure w = structure(offsets, index);
  Tensor output = empty_activations(input, w.rows);
  with_scalar(values.scalar_type(), [&](auto scalar) {
    using S = typename decltype(scalar)::type;
    Typed<S>::spmm(w, read<S>(values), read_indices(permutation), to_read<S>(input), read<S>(bias),
                   to_write<S>(output));
  });
  return output;
}

Tensor scatter_operator(const Tensor& crow_indices, const Tensor& col_indices, const Tensor& values,
                        const Tensor& grad_output, int64_t in_features) {
  const Structure rows = structure(crow_indices, col_indices);
  Tensor grad_input = empty_activations(grad_output, in_features);
  with_scalar(values.scalar_type(), [&](auto scalar) {
    using S = typename decltype(scalar)::type;
    Typed<S>::scatter(rows, read<S>(values), to_read<S>(grad_output), to_write<S>(grad_input));
  });
  return grad_input;
}

Tensor sddmm_operator(const Tensor& crow_indices, const Tensor& col_indices, const Tensor& grad_output,
                      const Tensor& input) {
  const Structure rows = structure(crow_indices, col_indices);
  Tensor grad_values = empty_values(input, col_indices.size(0));
  with_scalar(input.scalar_type(), [&](auto scalar) {
    using S = typename decltype(scalar)::type;
    Typed<S>::sddmm(rows, to_read<S>(grad_output), to_read<S>(input), write<S>(grad_values));
  });
  return grad_values;
}

// Without the columns of W grad_input is summed up by its rows.
std::tuple<Tensor, Tensor> backward_operator(const Tensor& crow_indices, const Tensor& col_indices,
                                             const std::optional<Tensor>& ccol_indices,
                                             const std::optional<Tensor>& row_indices,
                                             const std::optional<Tensor>& permutation, const Tensor& values,
                                             const Tensor& grad_output, const Tensor& input) {
  const Structure rows = structure(crow_indices, col_indices);
  Tensor grad_input = empty_activations(grad_output, input.size(1));
  Tensor grad_values = empty_values(input, col_indices.size(0));
  with_scalar(values.scalar_type(), [&](auto scalar) {
    using S = typename decltype(scalar)::type;
    const auto from = to_read<S>(grad_output), with = to_read<S>(input);
    if (permutation) {
      Typed<S>::backward(rows, structure(*ccol_indices, *row_indices), read_indices(permutation),
                         read<S>(values), from, with, to_write<S>(grad_input), write<S>(grad_values));
    } else {
      Typed<S>::scatter(rows, read<S>(values), from, to_write<S>(grad_input));
      Typed<S>::sddmm(rows, from, with, write<S>(grad_values));
    }
  });
  return {grad_input, grad_values};
}

bool amx_available_operator() {
  return amx_permitted();
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(sparselinear, library) {
  define(library, "spmm",
         "(Tensor offsets, Tensor index, Tensor values, Tensor? permutation, Tensor input, Tensor? bias)"
         " -> Tensor");
  define(library, "scatter",
         "(Tensor crow_indices, Tensor col_indices, Tensor values, Tensor grad_output, int in_features)"
         " -> Tensor");
  define(library, "sddmm",
         "(Tensor crow_indices, Tensor col_indices, Tensor grad_output, Tensor input) -> Tensor");
  define(library, "backward",
         "(Tensor crow_indices, Tensor col_indices, Tensor? ccol_indices, Tensor? row_indices,"
         " Tensor? permutation, Tensor values, Tensor grad_output, Tensor input) -> (Tensor, Tensor)");
  define(library, "amx_available", "() -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(sparselinear, CPU, library) {
  implement(library, "spmm", TORCH_BOX(&spmm_operator));
  implement(library, "scatter", TORCH_BOX(&scatter_operator));
  implement(library, "sddmm", TORCH_BOX(&sddmm_operator));
  implement(library, "backward", TORCH_BOX(&backward_operator));
}

STABLE_TORCH_LIBRARY_IMPL(sparselinear, CompositeExplicitAutograd, library) {
  implement(library, "amx_available", TORCH_BOX(&amx_available_operator));
}

}  // namespace sparselinear
