// The operators of the amx kernel: spmm and sddmm of W as dense tiles, with the arguments of the native
// kernel's. Each tells beside its result whether it is valid: not if there are numbers that have no parts
// (parts.h).
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "dense_tiles.h"
#include "permute.h"
#include "tensors.h"

namespace sparselinear {
namespace {

#ifdef SPARSELINEAR_AMX

bool available_operator() {
  return amx_permitted();
}

// Calls f(Type<S>(), Type<I>()) for the types of activations that there are parts of, and of indices.
template <class F>
void with_parts(const Tensor& activations, const Tensor& index, const F& f) {
  STD_TORCH_CHECK(activations.scalar_type() != ScalarType::Double, "float64 has no parts");
  with_types(activations, index, [&](auto scalar, auto integer) {
    if constexpr (!std::is_same_v<decltype(scalar), Type<double>>) f(scalar, integer);
  });
}

// Nothing to multiply: that is left to the native kernel.
bool is_empty(const Tensor& activations, const Tensor& offsets) {
  return activations.size(0) == 0 || activations.size(1) == 0 || offsets.size(0) == 1;
}

std::tuple<Tensor, bool> spmm_operator(const Tensor& offsets, const Tensor& index, const Tensor& values,
                                       const std::optional<Tensor>& permutation, const Tensor& input,
                                       const std::optional<Tensor>& bias) {
  const int64_t rows = offsets.size(0) - 1;
  Tensor output = empty_activations(input, rows);
  bool valid = amx_permitted() && !is_empty(input, offsets);
  if (valid)
    with_parts(input, index, [&](auto scalar, auto integer) {
      using S = typename decltype(scalar)::type;
      using I = typename decltype(integer)::type;
      const Weights<S, I> w{read<I>(offsets),     read<I>(index), read<S>(values),
                            read<I>(permutation), rows,           input.size(1)};
      valid = dense_spmm(w, to_read<S>(input), read<S>(bias), to_write<S>(output));
    });
  return {output, valid};
}

std::tuple<Tensor, bool> sddmm_operator(const Tensor& crow_indices, const Tensor& col_indices,
                                        const Tensor& grad_output, const Tensor& input) {
  Tensor grad_values = torch::stable::new_empty(input, {col_indices.size(0)});
  bool valid = amx_permitted() && !is_empty(input, crow_indices);
  if (valid)
    with_parts(input, col_indices, [&](auto scalar, auto integer) {
      using S = typename decltype(scalar)::type;
      using I = typename decltype(integer)::type;
      const int64_t rows = crow_indices.size(0) - 1;
      const Weights<S, I> w{read<I>(crow_indices), read<I>(col_indices), nullptr, nullptr, rows,
                            input.size(1)};
      const Dots<float, S, I> dots({w.offsets, rows}, nullptr,
                                   static_cast<S*>(grad_values.mutable_data_ptr()));
      valid = dense_sddmm(w, to_read<S>(grad_output), to_read<S>(input), dots.data());
      dots.deliver();
    });
  return {grad_values, valid};
}

#else

bool available_operator() {
  return false;
}

#endif

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(sparselinear, library) {
  library.def("amx_available() -> bool");
  library.def(
      "amx_spmm(Tensor offsets, Tensor index, Tensor values, Tensor? permutation, Tensor input, Tensor? bias)"
      " -> (Tensor, bool)");
  library.def(
      "amx_sddmm(Tensor crow_indices, Tensor col_indices, Tensor grad_output, Tensor input)"
      " -> (Tensor, bool)");
}

STABLE_TORCH_LIBRARY_IMPL(sparselinear, CompositeExplicitAutograd, library) {
  library.impl("amx_available", TORCH_BOX(&available_operator));
}

#ifdef SPARSELINEAR_AMX
STABLE_TORCH_LIBRARY_IMPL(sparselinear, CPU, library) {
  library.impl("amx_spmm", TORCH_BOX(&spmm_operator));
  library.impl("amx_sddmm", TORCH_BOX(&sddmm_operator));
}
#endif

}  // namespace sparselinear
