// Activations as strips of tiles, and blocks of sums back to activations.
#pragma once

#include "packing.h"
#include "parallel.h"
#include "parts.h"
#include "scratch.h"

namespace sparselinear {

constexpr int64_t kPair = 2 * kTile;  // strips are multiplied two at a time
constexpr int64_t kBlockSize = kPair * kPair;
constexpr int64_t kDeep = 4;  // tiles of two strips of A and two of B fit in the first-level cache
constexpr int64_t kChunk = kDeep * kDepth;  // depth that is worked through at a time
// Samples of a panel, whose parts are kept in scratch, and bytes of these.
constexpr int64_t kMostSamples = 512, kPanelBytes = int64_t{32} << 20;

// Samples of each panel, all panels being of nearly the same size.
template <int P>
int64_t panel_samples(int64_t batch, int64_t features) {
  const int64_t fit = kPanelBytes / (P * static_cast<int64_t>(sizeof(Bits)) * round_up(features, kDepth));
  const int64_t most = std::clamp<int64_t>(fit / kPair * kPair, kPair, kMostSamples);
  return round_up(ceil_div(batch, ceil_div(batch, most)), kPair);
}

// The parts of a matrix as strips of tiles: the first kDeep tiles of all strips, then the next of all. Strips
// that lie a whole depth apart would meet in the same few sets of the cache.
template <int P>
struct Strips {
  Bits* data;
  int64_t strips;

  static int64_t bytes(int64_t strips, int64_t depth) {
    return strips * round_up(depth, kChunk) / kDepth * P * kTileSize * sizeof(Bits);
  }
  // A tile of a strip; up to the next multiple of kDeep, those that follow lie behind it.
  Bits* at(int64_t strip, int64_t tile) const {
    return data + ((tile / kDeep * strips + strip) * kDeep + tile % kDeep) * P * kTileSize;
  }
};

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

// The way back, without what would lie beyond the last.
template <class S>
inline void store_block(Floats (&rows)[kTile], const Activations<S>& to, int64_t sample, int64_t feature,
                        bool features_are_rows) {
  const int64_t samples = std::clamp<int64_t>(to.batch - sample, 0, kTile),
                features = std::clamp<int64_t>(to.features - feature, 0, kTile);
  if (samples == kTile && features == kTile) {
    const int64_t stride = to.feature_major() ? to.feature_stride : to.batch_stride;
    S* first = to.at(sample, feature);
    if (to.feature_major() != features_are_rows) transpose<float, kTile>(rows);
#pragma GCC unroll 16
    for (int r = 0; r < kTile; ++r) store<kTile>(first + r * stride, rows[r]);
    return;
  }
  for (int s = 0; s < samples; ++s)
    for (int f = 0; f < features; ++f)
      store_one(to.at(sample + s, feature + f), features_are_rows ? rows[f][s] : rows[s][f]);
}

enum class Operand { kA, kB };
enum class Side { kSamples, kFeatures };

// Activations as an operand whose strips are 16 samples, or features, each; the others are its depth.
template <int P, class S>
void pack(const Activations<const S>& from, Operand operand, Side side, const Strips<P>& to,
          SharedMagnitude& seen) {
  const bool features_are_rows = (operand == Operand::kA) == (side == Side::kFeatures);
  const int64_t samples = from.batch, features = from.features,
                width = side == Side::kSamples ? samples : features,
                tiles = ceil_div(side == Side::kSamples ? features : samples, kDepth);
  constexpr int64_t kTiles = 8;  // in a task
  const int64_t runs = ceil_div(tiles, kTiles), strips = ceil_div(width, kPair) * 2;
  for_each_task(strips * runs, [&](int64_t task) {
    const int64_t strip = task / runs, first = task % runs * kTiles;
    Magnitude magnitude;
    for (int64_t tile = first; tile < std::min(first + kTiles, tiles); ++tile) {
      Floats halves[2][kTile];
      for (int half = 0; half < 2; ++half) {
        const int64_t at = strip * kTile, depth = tile * kDepth + half * kTile;
        if (side == Side::kSamples)
          load_block(from, at, depth, features_are_rows, halves[half]);
        else
          load_block(from, depth, at, features_are_rows, halves[half]);
        for (const Floats& row : halves[half]) magnitude.see(row);
      }
      for (int r = 0; r < kTile; ++r)
        store_words<P>(halves[0][r], halves[1][r], to.at(strip, tile) + r * kDepth);
    }
    seen.see(magnitude);
  });
}

// A row of a block of 32 x 32 sums: its first 16, and kTile * kTile further the others.
inline float* row_of_block(float* block, int64_t row) {
  return block + row / kTile * 2 * kTile * kTile + row % kTile * kTile;
}

// A block of 32 x 32 sums, whose rows are samples or features, with the bias added, to these and the next.
template <class S>
void deliver(const float* block, bool features_are_rows, int64_t sample, int64_t feature, const S* bias,
             const Activations<S>& to) {
  for (int64_t tile = 0; tile < 4; ++tile, block += kTile * kTile) {
    const int64_t row = tile / 2 * kTile, column = tile % 2 * kTile,
                  s = sample + (features_are_rows ? column : row),
                  f = feature + (features_are_rows ? row : column);
    Floats rows[kTile];
    for (int r = 0; r < kTile; ++r) rows[r] = load<kTile>(block + r * kTile);
    for (int i = 0; bias && i < std::min<int64_t>(kTile, to.features - f); ++i) {
      const float b = load_one(bias + f + i);
      if (features_are_rows)
        rows[i] += b;
      else
        for (int r = 0; r < kTile; ++r) rows[r][i] += b;
    }
    store_block(rows, to, s, f, features_are_rows);
  }
}

}  // namespace sparselinear
