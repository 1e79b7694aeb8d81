// Vectors of the compiler (vector_size), so that one source serves AVX2, AVX-512 and NEON: loads and
// stores that convert from and to the types of the activations, the reduction of many vectors to their
// sums at once, and the transposition of a square block.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

namespace sparselinear {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T, int L>
struct VectorOf {
  typedef T type __attribute__((vector_size(L * sizeof(T))));
};
template <class T, int L>
using Vector = typename VectorOf<T, L>::type;

// bfloat16 is the upper half of a float32.
struct BFloat16 {
  uint16_t bits;
};
using Float16 = _Float16;

// The type in which sums of T are taken.
template <class T>
struct AccumulatorOf {
  using type = float;
};
template <>
struct AccumulatorOf<double> {
  using type = double;
};
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

// L elements from p on, which need not be aligned, in the type of the sums.
template <int L, class T>
inline Vector<Accumulator<T>, L> load(const T* p) {
  using A = Accumulator<T>;
  if constexpr (std::is_same_v<T, BFloat16>) {
    Vector<uint16_t, L> raw;
    std::memcpy(&raw, p, sizeof raw);
    return (Vector<A, L>)(__builtin_convertvector(raw, Vector<uint32_t, L>) << 16);
  } else {
    Vector<T, L> raw;
    std::memcpy(&raw, p, sizeof raw);
    if constexpr (std::is_same_v<T, A>)
      return raw;
    else
      return __builtin_convertvector(raw, Vector<A, L>);
  }
}

// Rounds to the nearest, ties to even, as torch does.
template <int L, class T>
inline void store(T* p, Vector<Accumulator<T>, L> v) {
  using A = Accumulator<T>;
  if constexpr (std::is_same_v<T, BFloat16>) {
    using U = Vector<uint32_t, L>;
    const U bits = (U)v;
    const U rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const U nan = (U)(v != v);  // all bits set where not a number
    const U chosen = (nan & 0x7fc0u) | (~nan & rounded);
    const auto raw = __builtin_convertvector(chosen, Vector<uint16_t, L>);
    std::memcpy(p, &raw, sizeof raw);
  } else if constexpr (std::is_same_v<T, A>) {
    std::memcpy(p, &v, sizeof v);
  } else {
    const auto raw = __builtin_convertvector(v, Vector<T, L>);
    std::memcpy(p, &raw, sizeof raw);
  }
}

template <class T>
inline Accumulator<T> load_one(const T* p) {
  return load<1>(p)[0];
}

template <class T>
inline void store_one(T* p, Accumulator<T> x) {
  store<1>(p, Vector<Accumulator<T>, 1>{x});
}

// Keeps the compiler from loading v from memory anew for each use of it (an eighth of the time of the
// fused backward).
template <class V>
inline void keep_in_register(V& v) {
  if constexpr (sizeof(V) >= 16) {
#if defined(__AVX512F__)
    asm("" : "+v"(v));
#elif defined(__x86_64__)
    asm("" : "+x"(v));
#elif defined(__aarch64__)
    asm("" : "+w"(v));
#endif
  }
}

namespace detail {

// a and b hold the sums of N connections each, spread over L / N lanes at a distance of N; the result
// holds those of both, over half as many lanes each.
template <class A, int L, int N, int... lane>
__attribute__((always_inline)) inline Vector<A, L> merge(Vector<A, L> a, Vector<A, L> b,
                                                         std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(a, b, (lane % (2 * N) < N ? lane : lane - N + L)...) +
         __builtin_shufflevector(a, b, (lane % (2 * N) < N ? lane + N : lane + L)...);
}

// Rows i and i + N of a block swap their off-diagonal quarters of N lanes.
template <class A, int L, int N, int... lane>
__attribute__((always_inline)) inline void exchange(Vector<A, L>& a, Vector<A, L>& b,
                                                    std::integer_sequence<int, lane...>) {
  const auto low = __builtin_shufflevector(a, b, (lane % (2 * N) < N ? lane : lane - N + L)...);
  b = __builtin_shufflevector(a, b, (lane % (2 * N) < N ? lane + N : lane + L)...);
  a = low;
}

template <class A, int L, int N>
__attribute__((always_inline)) inline void transpose(Vector<A, L> (&rows)[L]) {
  if constexpr (N < L) {
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i)
      if (!(i & N)) exchange<A, L, N>(rows[i], rows[i + N], std::make_integer_sequence<int, L>());
    transpose<A, L, 2 * N>(rows);
  }
}

}  // namespace detail

// A vector whose lane j is the sum over the lanes of leaf(first + j), for N = L connections.
template <class A, int L, int N, class Leaf>
__attribute__((always_inline)) inline Vector<A, L> sums(int first, const Leaf& leaf) {
  if constexpr (N == 1) {
    return leaf(first);
  } else {
    const auto a = sums<A, L, N / 2>(first, leaf);
    const auto b = sums<A, L, N / 2>(first + N / 2, leaf);
    return detail::merge<A, L, N / 2>(a, b, std::make_integer_sequence<int, L>());
  }
}

template <class A, int L>
__attribute__((always_inline)) inline void transpose(Vector<A, L> (&rows)[L]) {
  detail::transpose<A, L, 1>(rows);
}

}  // namespace sparselinear
