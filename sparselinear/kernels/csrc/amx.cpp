// The operators of the amx kernel: the bits of a pattern, and the products of W as dense tiles. Each of these
// tells beside its result whether it is valid: not if there are numbers that have no parts (parts.h).
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
bool is_empty(const Tensor& activations, const Tensor& bits) {
  return activations.size(0) == 0 || bits.size(0) == 0 || bits.size(1) == 0;
}

template <class S, class I>
Weights<S, I> weights(const Tensor& crow_indices, const Tensor& bits, const S* values, int64_t columns) {
  return {read<I>(crow_indices), read<uint32_t>(bits), values, bits.size(0), columns};
}

Tensor bits_operator(const Tensor& crow_indices, const Tensor& col_indices, int64_t in_features) {
  const int64_t rows = crow_indices.size(0) - 1, words = words_of(in_features);
  Tensor bits = torch::stable::new_empty(col_indices, {rows, words}, ScalarType::Int);
  with_index(col_indices.scalar_type(), [&](auto integer) {
    using I = typename decltype(integer)::type;
    const I *offsets = read<I>(crow_indices), *index = read<I>(col_indices);
    auto* const to = static_cast<uint32_t*>(bits.mutable_data_ptr());
    torch::stable::parallel_for(0, rows, 64, [=](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r)
        mark(index + offsets[r], offsets[r + 1] - offsets[r], in_features, to + r * words);
    });
  });
  return bits;
}

std::tuple<Tensor, bool> spmm_operator(const Tensor& crow_indices, const Tensor& bits, const Tensor& values,
                                       const Tensor& input, const std::optional<Tensor>& bias) {
  Tensor output = empty_activations(input, bits.size(0));
  bool valid = amx_permitted() && !is_empty(input, bits);
  if (valid)
    with_parts(input, crow_indices, [&](auto scalar, auto integer) {
      using S = typename decltype(scalar)::type;
      using I = typename decltype(integer)::type;
      const auto w = weights<S, I>(crow_indices, bits, read<S>(values), input.size(1));
      valid = dense_spmm(w, to_read<S>(input), read<S>(bias), to_write<S>(output));
    });
  return {output, valid};
}

std::tuple<Tensor, bool> spmm_transposed_operator(const Tensor& crow_indices, const Tensor& bits,
                                                  const Tensor& values, int64_t in_features,
                                                  const Tensor& grad_output) {
  Tensor grad_input = empty_activations(grad_output, in_features);
  bool valid = amx_permitted() && !is_empty(grad_output, bits);
  if (valid)
    with_parts(grad_output, crow_indices, [&](auto scalar, auto integer) {
      using S = typename decltype(scalar)::type;
      using I = typename decltype(integer)::type;
      const auto w = weights<S, I>(crow_indices, bits, read<S>(values), in_features);
      valid = dense_spmm_transposed(w, to_read<S>(grad_output), to_write<S>(grad_input));
    });
  return {grad_input, valid};
}

std::tuple<Tensor, bool> sddmm_operator(const Tensor& crow_indices, const Tensor& bits, int64_t nnz,
                                        const Tensor& grad_output, const Tensor& input) {
  Tensor grad_values = empty_values(input, nnz);
  bool valid = amx_permitted() && !is_empty(input, bits);
  if (valid)
    with_parts(input, crow_indices, [&](auto scalar, auto integer) {
      using S = typename decltype(scalar)::type;
      using I = typename decltype(integer)::type;
      const auto w = weights<S, I>(crow_indices, bits, nullptr, input.size(1));
      const Dots<float, S, I> dots({w.offsets, w.rows}, nullptr,
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
  library.def("amx_bits(Tensor crow_indices, Tensor col_indices, int in_features) -> Tensor");
  library.def(
      "amx_spmm(Tensor crow_indices, Tensor bits, Tensor values, Tensor input, Tensor? bias)"
      " -> (Tensor, bool)");
  library.def(
      "amx_spmm_transposed(Tensor crow_indices, Tensor bits, Tensor values, int in_features,"
      " Tensor grad_output) -> (Tensor, bool)");
  library.def(
      "amx_sddmm(Tensor crow_indices, Tensor bits, int nnz, Tensor grad_output, Tensor input)"
      " -> (Tensor, bool)");
}

STABLE_TORCH_LIBRARY_IMPL(sparselinear, CompositeExplicitAutograd, library) {
  library.impl("amx_available", TORCH_BOX(&available_operator));
}

#ifdef SPARSELINEAR_AMX
STABLE_TORCH_LIBRARY_IMPL(sparselinear, CPU, library) {
  library.impl("amx_bits", TORCH_BOX(&bits_operator));
  library.impl("amx_spmm", TORCH_BOX(&spmm_operator));
  library.impl("amx_spmm_transposed", TORCH_BOX(&spmm_transposed_operator));
  library.impl("amx_sddmm", TORCH_BOX(&sddmm_operator));
}
#endif

}  // namespace sparselinear
