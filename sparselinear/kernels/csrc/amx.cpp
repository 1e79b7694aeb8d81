// The operators of the amx kernel: the bits of a pattern, and the products of W as dense tiles. Each of these
// tells beside its result whether it is valid: not if there are numbers that have no parts (parts.h).
#include "amx.h"

#ifdef SPARSELINEAR_AMX

#include <tuple>

#include "dense_tiles.h"
#include "permute.h"
#include "registration.h"
#include "tensors.h"

namespace sparselinear {
namespace {

// Nothing to multiply: that is left to the native kernel.
bool is_empty(const Tensor& activations, const Tensor& bits) {
  return activations.size(0) == 0 || bits.size(0) == 0 || bits.size(1) == 0;
}

template <class S>
Weights<S> weights(const Tensor& crow_indices, const Tensor& bits, const S* values, int64_t columns) {
  return {read_indices(crow_indices), read<uint32_t>(bits), values, bits.size(0), columns};
}

Tensor bits_operator(const Tensor& crow_indices, const Tensor& col_indices, int64_t in_features) {
  const Structure w = structure(crow_indices, col_indices);
  const int64_t words = words_of(in_features);
  Tensor bits = torch::stable::new_empty(col_indices, {w.rows, words}, ScalarType::Int);
  auto* const to = write<uint32_t>(bits);
  parallel_for(w.rows, 64, [=](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      mark(w.index + w.offsets[r], w.offsets[r + 1] - w.offsets[r], in_features, to + r * words);
  });
  return bits;
}

std::tuple<Tensor, bool> spmm_operator(const Tensor& crow_indices, const Tensor& bits, const Tensor& values,
                                       const Tensor& input, const std::optional<Tensor>& bias) {
  Tensor output = empty_activations(input, bits.size(0));
  bool valid = amx_permitted() && !is_empty(input, bits);
  if (valid)
    with_scalar(input.scalar_type(), [&](auto scalar) {
      using S = typename decltype(scalar)::type;
      const auto w = weights<S>(crow_indices, bits, read<S>(values), input.size(1));
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
    with_scalar(grad_output.scalar_type(), [&](auto scalar) {
      using S = typename decltype(scalar)::type;
      const auto w = weights<S>(crow_indices, bits, read<S>(values), in_features);
      valid = dense_spmm_transposed(w, to_read<S>(grad_output), to_write<S>(grad_input));
    });
  return {grad_input, valid};
}

std::tuple<Tensor, bool> sddmm_operator(const Tensor& crow_indices, const Tensor& bits, int64_t nnz,
                                        const Tensor& grad_output, const Tensor& input) {
  Tensor grad_values = empty_values(input, nnz);
  bool valid = amx_permitted() && !is_empty(input, bits);
  if (valid)
    with_scalar(input.scalar_type(), [&](auto scalar) {
      using S = typename decltype(scalar)::type;
      const auto w = weights<S>(crow_indices, bits, nullptr, input.size(1));
      const Dots<float, S> dots({w.offsets, nullptr, w.rows}, nullptr, write<S>(grad_values));
      valid = dense_sddmm(w, to_read<S>(grad_output), to_read<S>(input), dots.data());
      dots.deliver();
    });
  return {grad_values, valid};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(sparselinear, library) {
  define(library, "amx_bits", "(Tensor crow_indices, Tensor col_indices, int in_features) -> Tensor");
  define(library, "amx_spmm",
         "(Tensor crow_indices, Tensor bits, Tensor values, Tensor input, Tensor? bias)"
         " -> (Tensor, bool)");
  define(library, "amx_spmm_transposed",
         "(Tensor crow_indices, Tensor bits, Tensor values, int in_features,"
         " Tensor grad_output) -> (Tensor, bool)");
  define(library, "amx_sddmm",
         "(Tensor crow_indices, Tensor bits, int nnz, Tensor grad_output, Tensor input)"
         " -> (Tensor, bool)");
}

STABLE_TORCH_LIBRARY_IMPL(sparselinear, CPU, library) {
  implement(library, "amx_bits", TORCH_BOX(&bits_operator));
  implement(library, "amx_spmm", TORCH_BOX(&spmm_operator));
  implement(library, "amx_spmm_transposed", TORCH_BOX(&spmm_transposed_operator));
  implement(library, "amx_sddmm", TORCH_BOX(&sddmm_operator));
}

}  // namespace sparselinear

#endif
