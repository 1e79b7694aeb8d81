// Numbers of a single sample, which lie side by side, by the indices of connections.
//
// In vectors of 16 bytes that the compiler puts together of single loads. The processor's own instruction for
// it is slower: dot products of rows of 8, 20, 100 and 400 connections over 4096 numbers, Zen 5, took 2.5,
// 2.1, 1.9 and 1.6 times as long with 16 numbers gathered at once, and 1.7, 2.8, 2.2 and 2.0 times with 8 of
// float64. One vector at a time took 1.05 to 1.25 times as long as two in turns, and vectors of 32 bytes 0.9
// to 1.5 times.
#pragma once

#include <utility>

#include "structure.h"
#include "vector.h"

namespace sparselinear {

template <class A>
constexpr int kGathered = 16 / static_cast<int>(sizeof(A));

template <class A>
__attribute__((always_inline)) inline Vector<A, kGathered<A>> gathered(const A* x, const Index* index) {
  return [=]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    return Vector<A, kGathered<A>>{x[index[i]]...};
  }(std::make_integer_sequence<int, kGathered<A>>());
}

// Calls several(k) for kGathered connections from k on, twice in a row, and one(k) for each that is left.
template <class A, class Several, class One>
__attribute__((always_inline)) inline void by_vectors(int64_t first, int64_t last, const Several& several,
                                                      const One& one) {
  constexpr int N = kGathered<A>;
  int64_t k = first;
  for (; k + 2 * N <= last; k += 2 * N) {
    several(k);
    several(k + N);
  }
  for (; k < last; ++k) one(k);
}

// The first `count` of L numbers, and zeros.
template <int L, class A>
__attribute__((always_inline)) inline Vector<A, L> first_of(Vector<A, L> numbers, int64_t count) {
  using Int = std::conditional_t<sizeof(A) == 4, int32_t, int64_t>;
  const auto lanes = []<int... lane>(std::integer_sequence<int, lane...>) {
    return Vector<Int, L>{lane...};
  }(std::make_integer_sequence<int, L>());
  return lanes < static_cast<Int>(count) - Vector<Int, L>{} ? numbers : Vector<A, L>{};
}

// Sum of values[k] * x[index[k]] over `count` connections; there are `readable` of them before memory ends.
//
// The last ones are taken two vectors at a time as well, with zeros for what belongs to the next row: a loop
// for each that is left ends after so many turns as can hardly be foreseen. Time with that loop over time so,
// rows of 41 and of 100 connections over 4096 numbers, Zen 5: one pattern again and again, which the
// processor remembers, 0.95 and 0.95; eight in turns 1.5 and 1.3.
template <class A>
__attribute__((always_inline)) inline A gathered_dot(const A* x, const Index* index, const A* values,
                                                     int64_t count, int64_t readable) {
  constexpr int N = kGathered<A>;
  const auto product = [=](int64_t k) __attribute__((always_inline)) {
    return load<N>(values + k) * gathered(x, index + k);
  };
  Vector<A, N> even{}, odd{};
  int64_t k = 0;
  for (; k + 2 * N <= count; k += 2 * N) {
    even += product(k);
    odd += product(k + N);
  }
  A rest = 0;
  if (k + 2 * N <= readable) {
    even += first_of<N, A>(product(k), count - k);
    odd += first_of<N, A>(product(k + N), count - k - N);
  } else {
    for (; k < count; ++k) rest += values[k] * x[index[k]];
  }
  even += odd;
  for (int i = 0; i < N; ++i) rest += even[i];
  return rest;
}

}  // namespace sparselinear
