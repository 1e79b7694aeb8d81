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
// Bytes of a cache line, and numbers in it.
constexpr int kLine = 64;
template <class T>
constexpr int kPerLine = kLine / static_cast<int>(sizeof(T));

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

// One step towards the sums, or the transposition, of L vectors: of a and b together, the numbers at `half` 0
// or 1, in the order in which processors have a fast instruction for it. Within 16 bytes: the lower or the
// upper half of each, in turns by N numbers. Of more: the even or the odd ones of a, and then of b.
template <class A, int L, int N>
constexpr int place(int lane, int half) {
  constexpr int G = 16 / sizeof(A);
  if constexpr (N < G) {
    const int group = lane / G * G, at = lane % G, copy = at / (2 * N) + half * (G / (2 * N));
    return group + copy * N + at % N + (at / N % 2) * L;
  } else {
    const int group = lane / G, from = group < L / G / 2 ? 0 : 1;
    return (2 * (group - from * (L / G / 2)) + half) * G + lane % G + from * L;
  }
}

template <class A, int L, int N, int half, int... lane>
__attribute__((always_inline)) inline Vector<A, L> interleave(Vector<A, L> a, Vector<A, L> b,
                                                              std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(a, b, place<A, L, N>(lane, half)...);
}

template <class A, int L, int N, int half>
__attribute__((always_inline)) inline Vector<A, L> interleave(Vector<A, L> a, Vector<A, L> b) {
  return interleave<A, L, N, half>(a, b, std::make_integer_sequence<int, L>());
}

template <class A, int L, int N>
__attribute__((always_inline)) inline void transpose(Vector<A, L> (&rows)[L]) {
  if constexpr (N < L) {
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i)
      if (!(i & N)) {
        const auto low = interleave<A, L, N, 0>(rows[i], rows[i + N]);
        rows[i + N] = interleave<A, L, N, 1>(rows[i], rows[i + N]);
        rows[i] = low;
      }
    transpose<A, L, 2 * N>(rows);
  } else if constexpr (L >= 4 && sizeof(A) == 4) {  // of each four, the middle ones have changed places
#pragma GCC unroll 16
    for (int i = 0; i < L; i += 4) std::swap(rows[i + 1], rows[i + 2]);
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
    return detail::interleave<A, L, N / 2, 0>(a, b) + detail::interleave<A, L, N / 2, 1>(a, b);
  }
}

template <class A, int L>
__attribute__((always_inline)) inline void transpose(Vector<A, L> (&rows)[L]) {
  detail::transpose<A, L, 1>(rows);
}

}  // namespace sparselinear
