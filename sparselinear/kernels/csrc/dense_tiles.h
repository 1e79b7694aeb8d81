// Products of a W that is nearly dense: blocks of it are written out with their zeros, as tiles of the matrix
// unit, multiplied, and forgotten. grad_values come as blocks too, of which the connections are kept.
#pragma once

#include "amx.h"
#include "parallel.h"
#include "scratch.h"

namespace sparselinear {

#ifdef SPARSELINEAR_AMX

// A sparse matrix by rows: W, or W^T. Connection k has the value values[order[k]], or values[k] if there is
// no order.
template <class S, class I>
struct Weights {
  const I *offsets, *index;
  const S* values;
  const I* order;
  int64_t rows, columns;
};

constexpr int64_t kPair = 2 * kTile;  // strips are multiplied two at a time
constexpr int64_t kDeep = 4;          // tiles of two strips of A and two of B fit in the first-level cache
constexpr int64_t kMostRows = 256;    // of W in a task
constexpr int64_t kColumns = kDeep * kDepth;  // of W that a task works on at a time
// Samples of a panel, whose parts are kept in scratch, and bytes of these.
constexpr int64_t kMostSamples = 512, kPanelBytes = int64_t{32} << 20;

inline int64_t round_up(int64_t n, int64_t to) {
  return ceil_div(n, to) * to;
}

// Samples of each panel, all panels being of nearly the same size.
template <int P>
int64_t panel_samples(int64_t batch, int64_t features) {
  const int64_t fit = kPanelBytes / (P * static_cast<int64_t>(sizeof(Bits)) * round_up(features, kDepth));
  const int64_t most = std::clamp<int64_t>(fit / kPair * kPair, kPair, kMostSamples);
  return round_up(ceil_div(batch, ceil_div(batch, most)), kPair);
}

// Rows of W of one task.
inline int64_t rows_of_task(int64_t rows) {
  const int64_t fair = ceil_div(rows, 4 * torch::stable::get_num_threads());
  return std::min(kMostRows, round_up(fair, kPair));
}

// Asks for the lines of so many bytes.
inline void fetch(const void* data, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(data) + i);
}

// The parts of a panel as strips of tiles, in scratch: the first kDeep tiles of all strips, then the next of
// all. Strips that lie a whole depth apart would meet in the same few sets of the cache.
class Strips {
 public:
  Strips(int64_t strips, int64_t depth, int parts)
      : strips_(strips),
        tile_(parts * kTileSize),
        scratch_(strips * round_up(ceil_div(depth, kDepth), kDeep) * tile_ * sizeof(Bits)) {}
  // A tile of a strip; up to the next multiple of kDeep, those that follow lie behind it.
  Bits* at(int64_t strip, int64_t tile) const {
    return scratch_.as<Bits>() + ((tile / kDeep * strips_ + strip) * kDeep + tile % kDeep) * tile_;
  }

 private:
  int64_t strips_, tile_;
  Scratch scratch_;
};

// Samples from one on, as many as a panel holds, of the activations.
template <class S>
Activations<S> samples_of(const Activations<S>& from, int64_t first, int64_t count) {
  return {from.at(first, 0), std::min(count, from.batch - first), from.features, from.batch_stride,
          from.feature_stride};
}

// As A, samples being the rows and features the depth, or, if `across`, the other way round.
template <class S, int P = kParts<S>>
void pack_rows(const Activations<const S>& from, bool across, int64_t depth, const Strips& to,
               SharedMagnitude& seen) {
  const int64_t rows = across ? from.features : from.batch, tiles = ceil_div(depth, kDepth);
  constexpr int64_t kTiles = 8;  // in a task
  const int64_t runs = ceil_div(tiles, kTiles), strips = ceil_div(rows, kPair) * 2;
  for_each_task(strips * runs, [&](int64_t task) {
    const int64_t strip = task / runs, first = task % runs * kTiles;
    Magnitude magnitude;
    for (int64_t tile = first; tile < std::min(first + kTiles, tiles); ++tile)
      for (int half = 0; half < 2; ++half) {
        Floats block[kTile];
        const int64_t row = strip * kTile, k = tile * kDepth + half * kTile;
        load_block(from, across ? k : row, across ? row : k, across, block);
        for (int r = 0; r < kTile; ++r) magnitude.see(block[r]);
        store_rows<P>(block, to.at(strip, tile) + half * kTile);
      }
    seen.see(magnitude);
  });
}

// As B, samples being the depth and features the columns.
template <class S, int P = kParts<S>>
void pack_columns(const Activations<const S>& from, int64_t depth, const Strips& to, SharedMagnitude& seen) {
  for_each_task(ceil_div(from.features, kPair) * 2, [&](int64_t strip) {
    Magnitude magnitude;
    for (int64_t k = 0; k < depth; k += kTile) {
      Floats block[kTile];
      load_block(from, k, strip * kTile, false, block);
      for (int r = 0; r < kTile; ++r) magnitude.see(block[r]);
      Bits* tile = to.at(strip, k / kDepth) + k % kDepth / 2 * kPair;
      for (int r = 0; r < kTile; r += 2) store_pair<P>(block[r], block[r + 1], tile + r / 2 * kPair);
    }
    seen.see(magnitude);
  });
}

// Sums (samples, width) in rows of `stride`, with the bias added, to features from `first` on.
template <class S>
void deliver(float* sums, int64_t stride, int64_t samples, int64_t first, int64_t width, const S* bias,
             const Activations<S>& to) {
  for (int64_t s = 0; s < samples && bias; ++s)
    for (int64_t f = 0; f < width; ++f) sums[s * stride + f] += load_one(bias + first + f);
  for (int64_t s = 0; s < samples; s += kTile)
    for (int64_t f = 0; f < width; f += kTile) {
      const float* from = sums + s * stride + f;
      S* target = to.at(s, first + f);
      if (s + kTile > samples || f + kTile > width) {
        for (int64_t i = 0; i < std::min<int64_t>(kTile, samples - s); ++i)
          for (int64_t j = 0; j < std::min<int64_t>(kTile, width - f); ++j)
            store_one(to.at(s + i, first + f + j), from[i * stride + j]);
      } else if (to.feature_major()) {
        transpose_block<kTile>(from, stride, target, to.feature_stride);
      } else {
        for (int64_t i = 0; i < kTile; ++i)
          store<kTile>(target + i * to.batch_stride, load<kTile>(from + i * stride));
      }
    }
}

// Where each row of a task goes on, as its columns are worked through in chunks.
template <class I>
class Places {
 public:
  Places(const I* offsets, int64_t rows) : ends_(offsets + 1) {
    for (int64_t r = 0; r < rows; ++r) next_[r] = offsets[r];
  }
  // Calls each(k, index[k]) for the connections of a row up to a column, in order.
  template <class Each>
  void advance(int64_t row, const I* index, int64_t last, const Each& each) {
    const int64_t stop = end(row);
    int64_t k = next_[row];
    for (; k < stop && index[k] < last; ++k) each(k, index[k]);
    next_[row] = k;
  }
  // The first connection that is still to come.
  int64_t next(int64_t row) const {
    return next_[row];
  }
  int64_t end(int64_t row) const {
    return ends_[row];
  }

 private:
  const I* ends_;
  int64_t next_[kMostRows];
};

// Asks for what a row of a task has in its next columns: likely as much as in the ones before, from `before`
// on. Without that, half of the time beside the products is spent waiting (4096 x 4096, 40 %).
template <class S, class I, class T>
void fetch_next(const Weights<S, I>& w, const Places<I>& places, int64_t row, int64_t before, const T* data) {
  const int64_t k = places.next(row), count = std::min(k - before, places.end(row) - k);
  fetch(w.index + k, count * sizeof(I));
  if (!w.order) return fetch(data + k, count * sizeof(T));
  fetch(w.order + k, count * sizeof(I));
  // Rows of W^T that follow each other have their values in the same lines: 4 rows name most of those of 16.
  if (row % 4 == 0)
    for (int64_t i = k; i < k + count; ++i) __builtin_prefetch(data + w.order[i], 0, 2);
}

// W as B of spmm: 16 rows of a task are the columns, and columns of W up to `last` the depth.
template <class S, class I, int P = kParts<S>>
void expand(const Weights<S, I>& w, Places<I>& places, int64_t row, int64_t rows, int64_t first, int64_t last,
            Bits* to, Magnitude& magnitude) {
  alignas(64) float block[kColumns * kTile] = {};
  for (int64_t r = row; r < std::min(row + kTile, rows); ++r) {
    float* const column = block + (r - row) - first * kTile;
    const S* const values = w.values;
    const I* const order = w.order;
    const int64_t before = places.next(r);
    if (order)
      places.advance(r, w.index, last,
                     [=](int64_t k, int64_t c) { column[c * kTile] = load_one(values + order[k]); });
    else
      places.advance(r, w.index, last,
                     [=](int64_t k, int64_t c) { column[c * kTile] = load_one(values + k); });
    fetch_next(w, places, r, before, w.values);
  }
  for (int64_t k = 0; k < round_up(last - first, kDepth); k += 2) {
    const Floats even = load<kTile>(block + k * kTile), odd = load<kTile>(block + (k + 1) * kTile);
    magnitude.see(even);
    magnitude.see(odd);
    store_pair<P>(even, odd, to + k / kDepth * P * kTileSize + k % kDepth / 2 * kPair);
  }
}

// output = input W^T + bias. False if there are numbers that have no parts: the output is not valid then.
template <class S, class I>
bool dense_spmm(const Weights<S, I>& w, const Activations<const S>& input, const S* bias,
                const Activations<S>& output) {
  constexpr int P = kParts<S>;
  constexpr int64_t kStrip = kColumns / kDepth * P * kTileSize;
  const int64_t panel = panel_samples<P>(input.batch, w.columns), width = rows_of_task(w.rows);
  const Strips x(panel / kTile, w.columns, P);
  SharedMagnitude inputs, values;
  for (int64_t sample = 0; sample < input.batch; sample += panel) {
    const auto from = samples_of(input, sample, panel);
    const Activations<S> to = samples_of(output, sample, panel);
    const int64_t pairs = ceil_div(from.batch, kPair);
    pack_rows(from, false, w.columns, x, inputs);
    for_each_task(ceil_div(w.rows, width), [&](int64_t task) {
      const int64_t row = task * width, rows = std::min(width, w.rows - row), blocks = ceil_div(rows, kPair);
      const Scratch scratch(kMostRows * (kMostSamples * sizeof(float) + kColumns * P * sizeof(Bits)));
      float* sums = scratch.as<float>();
      Bits* expanded = reinterpret_cast<Bits*>(sums + kMostRows * kMostSamples);
      Places<I> places(w.offsets + row, rows);
      Magnitude magnitude;
      const TileRegisters registers;
      for (int64_t first = 0; first < w.columns; first += kColumns) {
        const int64_t last = std::min(first + kColumns, w.columns), tiles = ceil_div(last - first, kDepth);
        for (int64_t s = 0; s < blocks * kPair; s += kTile)
          expand(w, places, s, rows, first, last, expanded + s / kTile * kStrip, magnitude);
        for (int64_t block = 0; block < blocks; ++block)
          for (int64_t pair = 0; pair < pairs; ++pair)
            multiply_strips<P>(x.at(2 * pair, first / kDepth), x.at(2 * pair + 1, first / kDepth),
                               expanded + 2 * block * kStrip, expanded + (2 * block + 1) * kStrip, tiles,
                               first > 0, sums + (pair * kMostRows + block) * kPair, kMostRows);
      }
      deliver(sums, kMostRows, from.batch, row, rows, bias, to);
      values.see(magnitude);
    });
  }
  return inputs.has_parts() && values.has_parts();
}

// grad_values = grad_output^T input at the connections of W, in the type of the sums, for they are added up
// over the panels. False as above.
template <class S, class I>
bool dense_sddmm(const Weights<S, I>& w, const Activations<const S>& grad_output,
                 const Activations<const S>& input, float* grad_values) {
  constexpr int P = kParts<S>;
  const int64_t batch = input.batch, panel = panel_samples<P>(batch, w.rows + w.columns),
                width = rows_of_task(w.rows);
  const Strips y(ceil_div(w.rows, kPair) * 2, panel, P), x(ceil_div(w.columns, kPair) * 2, panel, P);
  SharedMagnitude gradients, inputs;
  for (int64_t sample = 0; sample < batch; sample += panel) {
    const auto from = samples_of(input, sample, panel);
    const int64_t tiles = ceil_div(from.batch, kDepth);
    pack_rows(samples_of(grad_output, sample, panel), true, tiles * kDepth, y, gradients);
    pack_columns(from, tiles * kDepth, x, inputs);
    for_each_task(ceil_div(w.rows, width), [&](int64_t task) {
      const int64_t row = task * width, rows = std::min(width, w.rows - row);
      const Scratch scratch(kMostRows * kColumns * sizeof(float));
      float* products = scratch.as<float>();  // (rows, kColumns)
      Places<I> places(w.offsets + row, rows);
      const TileRegisters registers;
      for (int64_t first = 0; first < w.columns; first += kColumns) {
        const int64_t last = std::min(first + kColumns, w.columns);
        for (int64_t t = 0; t < tiles; t += kDeep)
          for (int64_t r = 0; r < rows; r += kPair)
            for (int64_t c = first; c < last; c += kPair) {
              const int64_t a = (row + r) / kTile, b = c / kTile;
              multiply_strips<P>(y.at(a, t), y.at(a + 1, t), x.at(b, t), x.at(b + 1, t),
                                 std::min(kDeep, tiles - t), t > 0, products + r * kColumns + c - first,
                                 kColumns);
            }
        for (int64_t r = 0; r < rows; ++r) {
          const float* const product = products + r * kColumns - first;
          const int64_t before = places.next(r);
          if (sample == 0)
            places.advance(r, w.index, last, [=](int64_t k, int64_t c) { grad_values[k] = product[c]; });
          else
            places.advance(r, w.index, last, [=](int64_t k, int64_t c) { grad_values[k] += product[c]; });
          fetch_next(w, places, r, before, static_cast<const float*>(grad_values));
        }
      }
    });
  }
  return gradients.has_parts() && inputs.has_parts();
}

#endif

}  // namespace sparselinear
