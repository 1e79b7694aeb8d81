// Definition of the operators that typed.h declares.
#pragma once

#include "outer.h"
#include "permute.h"
#include "products.h"
#include "rules.h"
#include "scatter.h"
#include "typed.h"

namespace sparselinear {

template <class S>
void Typed<S>::spmm(const Structure& w, const S* values, const Index* order,
                    const Activations<const S>& input, const S* bias, const Activations<S>& output) {
  using A = Accumulator<S>;
  const Ordered<A, S> ordered(w, values, order);
  const Sparse<A> rows{w, ordered.data()};
  if (multiplies_zeros<A>(input, w) && spmm_with_zeros(rows, input, bias, output)) return;
  sparselinear::spmm(plan_for<A>(input, w, kForward), rows, input, bias, output);
}

template <class S>
void Typed<S>::scatter(const Structure& rows, const S* values, const Activations<const S>& grad_output,
                       const Activations<S>& grad_input) {
  using A = Accumulator<S>;
  const Ordered<A, S> summed(rows, values, nullptr);
  sparselinear::scatter(plan_for<A>(grad_output, rows, kForward), Sparse<A>{rows, summed.data()}, grad_output,
                        grad_input);
}

// With grad_output and input in each other's place: what is gathered is the input, and the results come in
// CSR order.
template <class S>
void Typed<S>::sddmm(const Structure& rows, const Activations<const S>& grad_output,
                     const Activations<const S>& input, S* grad_values) {
  using A = Accumulator<S>;
  if (input.batch == 1) return outer<A>(rows, grad_output, input, grad_values);
  const Dots<A, S> dots(rows, nullptr, grad_values);
  const Sparse<A> w{rows, nullptr};
  if (multiplies_zeros<A>(input, rows))
    sddmm_with_zeros(w, grad_output, input, dots.data());
  else
    sparselinear::backward(plan_for<A>(input, rows, kBackward), w, false, input, grad_output,
                           Activations<S>{}, dots.data());
  dots.deliver();
}

template <class S>
void Typed<S>::backward(const Structure& rows, const Structure& columns, const Index* order, const S* values,
                        const Activations<const S>& grad_output, const Activations<const S>& input,
                        const Activations<S>& grad_input, S* grad_values) {
  using A = Accumulator<S>;
  if (multiplies_zeros<A>(input, rows) || takes_two_passes<A>(input.batch, rows.nnz(), columns.rows)) {
    spmm(columns, values, order, grad_output, nullptr, grad_input);
    sddmm(rows, grad_output, input, grad_values);
    return;
  }
  const Ordered<A, S> ordered(columns, values, order);
  const Dots<A, S> dots(columns, order, grad_values);
  sparselinear::backward(plan_for<A>(grad_output, columns, kBackward), Sparse<A>{columns, ordered.data()},
                         true, grad_output, input, grad_input, dots.data());
  dots.deliver();
}

}  // namespace sparselinear
