// Numbers as sums of bfloat16, and matrices of them cut into tiles, as the matrix unit reads them.
//
// A float32 has 24 bits: it is the sum of three bfloat16 of 8 bits each. Of the nine products of the parts of
// two numbers, six are larger than the rounding of a float32, so a sum of these is as exact as one of float32
// (Henry, Tang and Heinecke, Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision
// Computations, ARITH 2019). A float16, 11 bits, takes two parts and three products.
#pragma once

#include <atomic>

#include "packing.h"

namespace sparselinear {

using Bits = uint16_t;  // of a bfloat16

// A tile holds 16 rows of A with a depth of 32, or 16 columns of B. Those of A lie row by row; in those of B
// two numbers of a column that follow each other lie side by side, then the same of the next column.
constexpr int kTile = 16, kDepth = 32, kTileSize = kTile * kDepth;

template <class S>
constexpr int kParts = 1;
template <>
constexpr int kParts<float> = 3;
template <>
constexpr int kParts<Float16> = 2;

using Floats = Vector<float, kTile>;
using Words = Vector<uint32_t, kTile>;

// The largest of the numbers seen, as bits without the sign, in whose order magnitudes lie.
class Magnitude {
 public:
  void see(Floats x) {
    const Words bits = (Words)x & 0x7fffffffu;
    most_ = bits > most_ ? bits : most_;
  }
  uint32_t most() const {
    uint32_t most = 0;
    for (int i = 0; i < kTile; ++i) most = std::max(most, most_[i]);
    return most;
  }

 private:
  Words most_ = {};
};

// The largest magnitude that any thread has seen.
class SharedMagnitude {
 public:
  void see(const Magnitude& magnitude) {
    const uint32_t most = magnitude.most();
    for (uint32_t known = most_; known < most && !most_.compare_exchange_weak(known, most);) continue;
  }
  // Whether parts stand for the numbers. Infinities and what is not a number do not have any, and numbers
  // next to the largest would round to infinity. The unit takes what is below 2^-126 for zero, parts and sums
  // alike: next to nothing beside products of the largest numbers, if those are 2^-40 or more.
  bool has_parts() const {
    constexpr uint32_t kLeast = (127 - 40) << 23, kMost = (127 + 127) << 23;
    return most_ == 0 || (most_ >= kLeast && most_ < kMost);
  }

 private:
  std::atomic<uint32_t> most_{0};
};

// The parts of 16 numbers, the largest first: each the number that is left, rounded to 8 bits; as the upper
// halves of words whose lower halves are zero.
template <int P>
__attribute__((always_inline)) inline void split(Floats x, Words (&parts)[P]) {
#pragma GCC unroll 3
  for (int p = 0; p < P; ++p) {
    parts[p] = (p + 1 < P || P == 1 ? (Words)x + 0x8000u : (Words)x) & 0xffff0000u;
    x -= (Floats)parts[p];
  }
}

// 16 rows of A over 16 of the depth, to the half of the tiles that begins at `to`.
template <int P>
inline void store_rows(const Floats (&rows)[kTile], Bits* to) {
#pragma GCC unroll 16
  for (int r = 0; r < kTile; ++r) {
    Words parts[P];
    split<P>(rows[r], parts);
#pragma GCC unroll 3
    for (int p = 0; p < P; ++p) {
      const auto half = __builtin_convertvector(parts[p] >> 16, Vector<Bits, kTile>);
      std::memcpy(to + p * kTileSize + r * kDepth, &half, sizeof half);
    }
  }
}

// Two numbers of each of 16 columns of B that follow each other, to their place in the tiles.
template <int P>
inline void store_pair(Floats first, Floats second, Bits* to) {
  Words low[P], high[P];
  split<P>(first, low);
  split<P>(second, high);
#pragma GCC unroll 3
  for (int p = 0; p < P; ++p) {
    const Words both = (low[p] >> 16) | high[p];
    std::memcpy(to + p * kTileSize, &both, sizeof both);
  }
}

// Samples and features from these on, 16 of each, with zeros beyond the last; a row is a sample, or, if
// `features_are_rows`, a feature.
template <class S>
inline void load_block(const Activations<const S>& from, int64_t sample, int64_t feature,
                       bool features_are_rows, Floats (&rows)[kTile]) {
  const int64_t samples = std::clamp<int64_t>(from.batch - sample, 0, kTile),
                features = std::clamp<int64_t>(from.features - feature, 0, kTile);
  const bool across = from.feature_major() != features_are_rows;  // rows are not as they lie in memory
  if (samples == kTile && features == kTile) {
    const int64_t stride = from.feature_major() ? from.feature_stride : from.batch_stride;
    const S* first = from.at(sample, feature);
#pragma GCC unroll 16
    for (int r = 0; r < kTile; ++r) rows[r] = load<kTile>(first + r * stride);
    if (across) transpose<float, kTile>(rows);
    return;
  }
  for (int r = 0; r < kTile; ++r) {
    rows[r] = Floats{};
    for (int i = 0; i < kTile; ++i) {
      const int64_t s = features_are_rows ? i : r, f = features_are_rows ? r : i;
      if (s < samples && f < features) rows[r][i] = load_one(from.at(sample + s, feature + f));
    }
  }
}

}  // namespace sparselinear
