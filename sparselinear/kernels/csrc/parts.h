// Numbers as sums of bfloat16, in tiles as the matrix unit reads them.
//
// A float32 has 24 bits: it is the sum of three bfloat16 of 8 bits each. Of the nine products of the parts of
// two numbers, six are larger than the rounding of a float32, so a sum of these is as exact as one of float32
// (Henry, Tang and Heinecke, Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision
// Computations, ARITH 2019). A float16, 11 bits, takes two parts and three products.
#pragma once

#include <algorithm>
#include <atomic>

#include "vector.h"

namespace sparselinear {

using Bits = uint16_t;  // of a bfloat16

// A tile is 16 rows of 16 words, and a word two numbers. Rows of A and columns of B have a depth of 32 in a
// tile: word j of row i of A has the numbers at depth j and j + 16 of that row, and word j of row i of B
// those at depth i and i + 16 of column j. So whole vectors of numbers become whole rows of words in both.
constexpr int kTile = 16, kDepth = 32, kTileSize = kTile * kDepth;

template <class S>
constexpr int kParts = 1;
template <>
inline constexpr int kParts<float> = 3;
template <>
inline constexpr int kParts<Float16> = 2;

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

// The parts of 16 words each of two numbers, to their place in the tiles.
template <int P>
__attribute__((always_inline)) inline void store_words(Floats first, Floats second, Bits* to) {
  Words low[P], high[P];
  split<P>(first, low);
  split<P>(second, high);
#pragma GCC unroll 3
  for (int p = 0; p < P; ++p) {
    const Words both = (low[p] >> 16) | high[p];
    std::memcpy(to + p * kTileSize, &both, sizeof both);
  }
}

}  // namespace sparselinear
