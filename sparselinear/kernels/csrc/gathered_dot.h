// The dot product of a row of W and numbers that lie side by side, gathered by the processor's own
// instruction.
#pragma once

#include <cstdint>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace sparselinear {

// Whether there is such an instruction for these types. Below kLongRow connections it is slower than loads
// one by one.
template <class A, class I>
constexpr bool kGathers = false;
constexpr int64_t kLongRow = 8;

template <class A, class I>
A gathered_dot(const A* x, const I* index, const A* values, int64_t count);

#if defined(__AVX512F__)

template <>
inline constexpr bool kGathers<float, int32_t> = true;
template <>
inline constexpr bool kGathers<double, int32_t> = true;

// 4096 x 4096, batch 1, Zen 5: 0.67 of the time of loads one by one at 1 %, 0.5 at 10 %.
template <>
inline float gathered_dot(const float* x, const int32_t* index, const float* values, int64_t count) {
  __m512 even = _mm512_setzero_ps(), odd = even;
  const auto add = [&](__m512 sum, int64_t k, __mmask16 lanes) __attribute__((always_inline)) {
    const __m512i places = _mm512_maskz_loadu_epi32(lanes, index + k);
    const __m512 gathered = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), lanes, places, x, sizeof(float));
    return _mm512_fmadd_ps(_mm512_maskz_loadu_ps(lanes, values + k), gathered, sum);
  };
  int64_t k = 0;
  for (; k + 32 <= count; k += 32) {
    even = add(even, k, 0xffff);
    odd = add(odd, k + 16, 0xffff);
  }
  for (; k < count; k += 16)
    even = add(even, k, count - k < 16 ? static_cast<__mmask16>((1u << (count - k)) - 1) : 0xffff);
  return _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
}

template <>
inline double gathered_dot(const double* x, const int32_t* index, const double* values, int64_t count) {
  __m512d even = _mm512_setzero_pd(), odd = even;
  const auto add = [&](__m512d sum, int64_t k, __mmask8 lanes) __attribute__((always_inline)) {
    const __m256i places = _mm512_castsi512_si256(_mm512_maskz_loadu_epi32(lanes, index + k));
    const __m512d gathered = _mm512_mask_i32gather_pd(_mm512_setzero_pd(), lanes, places, x, sizeof(double));
    return _mm512_fmadd_pd(_mm512_maskz_loadu_pd(lanes, values + k), gathered, sum);
  };
  int64_t k = 0;
  for (; k + 16 <= count; k += 16) {
    even = add(even, k, 0xff);
    odd = add(odd, k + 8, 0xff);
  }
  for (; k < count; k += 8)
    even = add(even, k, count - k < 8 ? static_cast<__mmask8>((1u << (count - k)) - 1) : 0xff);
  return _mm512_reduce_add_pd(_mm512_add_pd(even, odd));
}

#endif

}  // namespace sparselinear
