// Definition of the operators that typed.h declares.
#pragma once

#include "outer.h"
#include "permute.h"
#include "products.h"
#include "rules.h"
#include "scatter.h"
#include "typed.h"

namespace sparselinear {

template <class I>
Offsets<I> offsets_of(const Structure& w) {
  return {read<I>(w.offsets), w.count()};
}

template <class A, class I>
Sparse<A, I> sparse(const Structure& w, const A* values) {
  return {read<I>(w.offsets), read<I>(w.index), values, w.count()};
}

template <class S, class I>
void Typed<S, I>::spmm(const Structure& w, const Tensor& values, const std::optional<Tensor>& order,
                       const Tensor& input, const std::optional<Tensor>& bias, const Tensor& output) {
  using A = Accumulator<S>;
  const Ordered<A, S, I> ordered(offsets_of<I>(w), read<S>(values), read<I>(order));
  const auto rows = sparse<A, I>(w, ordered.data());
  const auto from = to_read<S>(input);
  const auto to = to_write<S>(output);
  if (multiplies_zeros<A>(input, w) && spmm_with_zeros(rows, from, read<S>(bias), to)) return;
  sparselinear::spmm(plan_for<A, S, I>(input, w, kForward), rows, from, read<S>(bias), to);
}

template <class S, class I>
void Typed<S, I>::scatter(const Structure& rows, const Tensor& values, const Tensor& grad_output,
                          const Tensor& grad_input) {
  using A = Accumulator<S>;
  const Ordered<A, S, I> summed(offsets_of<I>(rows), read<S>(values), nullptr);
  sparselinear::scatter(plan_for<A, S, I>(grad_output, rows, kForward), sparse<A, I>(rows, summed.data()),
                        to_read<S>(grad_output), to_write<S>(grad_input));
}

// With grad_output and input in each other's place: what is gathered is the input, and the results come in
// CSR order.
template <class S, class I>
void Typed<S, I>::sddmm(const Structure& rows, const Tensor& grad_output, const Tensor& input,
                        const Tensor& grad_values) {
  using A = Accumulator<S>;
  S* to = static_cast<S*>(grad_values.mutable_data_ptr());
  const auto gathered = to_read<S>(input), own = to_read<S>(grad_output);
  if (input.size(0) == 1)
    return outer<A>(read<I>(rows.offsets), read<I>(rows.index), own, gathered, rows.nnz(), to);
  const Dots<A, S, I> dots(offsets_of<I>(rows), nullptr, to);
  const auto w = sparse<A, I>(rows, nullptr);
  if (multiplies_zeros<A>(input, rows))
    sddmm_with_zeros(w, own, gathered, dots.data());
  else
    sparselinear::backward(plan_for<A, S, I>(input, rows, kBackward), w, false, gathered, own,
                           Activations<S>{}, dots.data());
  dots.deliver();
}

template <class S, class I>
void Typed<S, I>::backward(const Structure& rows, const Structure& columns, const Tensor& order,
                           const Tensor& values, const Tensor& grad_output, const Tensor& input,
                           const Tensor& grad_input, const Tensor& grad_values) {
  using A = Accumulator<S>;
  if (multiplies_zeros<A>(input, rows) || takes_two_passes<A>(input.size(0), rows.nnz(), columns.count())) {
    spmm(columns, values, order, grad_output, {}, grad_input);
    sddmm(rows, grad_output, input, grad_values);
    return;
  }
  const auto offsets = offsets_of<I>(columns);
  const Ordered<A, S, I> ordered(offsets, read<S>(values), read<I>(order));
  const Dots<A, S, I> dots(offsets, read<I>(order), static_cast<S*>(grad_values.mutable_data_ptr()));
  sparselinear::backward(plan_for<A, S, I>(grad_output, columns, kBackward),
                         sparse<A, I>(columns, ordered.data()), true, to_read<S>(grad_output),
                         to_read<S>(input), to_write<S>(grad_input), dots.data());
  dots.deliver();
}

}  // namespace sparselinear
