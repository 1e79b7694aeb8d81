// A nearly dense W: which of its entries are connections, as bits, and the values of these, written out with
// the zeros between them, or picked from a row of numbers. The processor does both by such bits, 16 numbers
// at once, however many are connections, and without a branch.
#pragma once

#include "amx.h"
#include "structure.h"

namespace sparselinear {

#ifdef SPARSELINEAR_AMX

constexpr int64_t kWord = 32;  // columns of a word

constexpr int64_t words_of(int64_t columns) {
  return (columns + kWord - 1) / kWord;
}

// W by rows: a bit for each of its columns, the lowest bit of a word standing for the first of 32, and the
// values of those that are set.
template <class S>
struct Weights {
  const Index* offsets;
  const uint32_t* bits;  // (rows, words_of(columns))
  const S* values;
  int64_t rows, columns;
};

// Writes the bits of a row whose connections are in these columns.
inline void mark(const Index* index, int64_t count, int64_t columns, uint32_t* bits) {
  std::fill_n(bits, words_of(columns), 0);
  for (int64_t k = 0; k < count; ++k) bits[index[k] / kWord] |= uint32_t{1} << (index[k] % kWord);
}

// Connections of a row in 32 columns: as many as there are bits set, from `first` on.
struct Run {
  int64_t first;
  uint32_t columns;
};

// Where each of some rows goes on, as their columns are gone through in order.
template <class S>
class Cursors {
 public:
  static constexpr int64_t kMostRows = 512;

  // Rows from `first` on; what comes after them is empty.
  Cursors(const Weights<S>& w, int64_t first, int64_t rows)
      : bits_(w.bits + first * words_of(w.columns)), rows_(rows), words_(words_of(w.columns)) {}
  int64_t& next(int64_t row) {
    return next_[row];
  }
  uint32_t columns(int64_t row, int64_t word) const {
    return row < rows_ && word < words_ ? bits_[row * words_ + word] : 0;
  }
  // The connections of a row in the columns of a word; those before have been taken.
  Run take(int64_t row, int64_t word) {
    const Run run{next_[row], columns(row, word)};
    next_[row] += _mm_popcnt_u32(run.columns);
    return run;
  }

 private:
  const uint32_t* bits_;
  int64_t rows_, words_, next_[kMostRows] = {};
};

template <class S>
__attribute__((always_inline)) inline Floats expand_16(const S* values, __mmask16 columns) {
  if constexpr (std::is_same_v<S, float>) {
    return (Floats)_mm512_maskz_expandloadu_ps(columns, values);
  } else {
    const __m256i bits = _mm256_maskz_expandloadu_epi16(columns, values);
    if constexpr (std::is_same_v<S, BFloat16>)
      return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
    else
      return (Floats)_mm512_cvtph_ps(bits);
  }
}

// The values of a run, with zeros where there is no connection.
template <class S>
__attribute__((always_inline)) inline void expand(const S* values, const Run& run, Floats& low,
                                                  Floats& high) {
  const S* const from = values + run.first;
  const auto columns = static_cast<__mmask16>(run.columns);
  low = expand_16(from, columns);
  high = expand_16(from + _mm_popcnt_u32(columns), static_cast<__mmask16>(run.columns >> 16));
}

__attribute__((always_inline)) inline void pick_16(const float* row, __mmask16 columns, bool add, float* to) {
  const auto there = static_cast<__mmask16>(_bzhi_u32(0xffff, _mm_popcnt_u32(columns)));  // the first ones
  __m512 picked = _mm512_maskz_compress_ps(columns, _mm512_load_ps(row));
  if (add) picked = _mm512_add_ps(picked, _mm512_maskz_loadu_ps(there, to));
  _mm512_mask_storeu_ps(to, there, picked);
}

// (Adds) the numbers of 32 columns to the values of a run, or puts them there.
__attribute__((always_inline)) inline void pick(const float* low, const float* high, const Run& run, bool add,
                                                float* values) {
  float* const to = values + run.first;
  const auto columns = static_cast<__mmask16>(run.columns);
  pick_16(low, columns, add, to);
  pick_16(high, static_cast<__mmask16>(run.columns >> 16), add, to + _mm_popcnt_u32(columns));
}

#endif

}  // namespace sparselinear
