// Products of a W that is nearly dense: blocks of it are written out with their zeros, as tiles of the matrix
// unit, multiplied, and forgotten. grad_values come as blocks too, of which the connections are kept.
#pragma once

#include "expand.h"
#include "parallel.h"
#include "strips.h"

namespace sparselinear {

#ifdef SPARSELINEAR_AMX

// Rows of W, or columns, of each of some tasks. The activations of a panel are read anew for each task, and
// the sums of a task, or its part of grad_output, go through the second-level cache.
inline int64_t width_of_task(int64_t all, int64_t samples) {
  constexpr int64_t kMost = 512, kMostSums = 512 * 256;
  const int64_t fair = ceil_div(all, 4 * thread_count());
  return std::min({kMost, kMostSums / samples / kPair * kPair, round_up(fair, kPair)});
}

// W as A: 32 rows are two strips, and columns from a word on, as many tiles, their depth. Meanwhile it asks
// for the values of other rows, from another word on, which come next: without that, the time beside the
// products is spent waiting.
template <class S, int P = kParts<S>>
void expand_rows(const Weights<S>& w, Cursors<S>& cursors, int64_t row, int64_t word, int64_t tiles,
                 int64_t next_row, int64_t next_word, const Strips<P>& to, Magnitude& magnitude) {
  Magnitude seen = magnitude;
  for (int64_t r = 0; r < kPair; ++r) {
    const S* ahead = w.values + cursors.next(next_row + r);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      Floats low, high;
      expand(w.values, cursors.take(row + r, word + tile), low, high);
      seen.see(low);
      seen.see(high);
      store_words<P>(low, high, to.at(r / kTile, tile) + r % kTile * kDepth);
      __builtin_prefetch(ahead);
      ahead += _mm_popcnt_u32(cursors.columns(next_row + r, next_word + tile));
    }
    __builtin_prefetch(ahead);
  }
  magnitude = seen;
}

// W as B: the 32 columns of a word are two strips, and as many tiles of rows their depth. Meanwhile it asks
// for the values that follow those of each row, or, at the end, for those of other rows, which begin at
// `next`.
template <class S, int P = kParts<S>>
void expand_columns(const Weights<S>& w, Cursors<S>& cursors, int64_t tiles, int64_t word, const Index* next,
                    const Strips<P>& to, Magnitude& magnitude) {
  Magnitude seen = magnitude;
  for (int64_t tile = 0; tile < tiles; ++tile)
    for (int64_t r = 0; r < kTile; ++r) {
      Floats low[2], high[2];
      for (int i = 0; i < 2; ++i) {
        const int64_t row = tile * kDepth + i * kTile + r;
        expand(w.values, cursors.take(row, word), low[i], high[i]);
        seen.see(low[i]);
        seen.see(high[i]);
        const S* const ahead = w.values + (next ? next[row] : cursors.next(row));
        __builtin_prefetch(ahead);
        __builtin_prefetch(ahead + kTile);
      }
      store_words<P>(low[0], low[1], to.at(0, tile) + r * kDepth);
      store_words<P>(high[0], high[1], to.at(1, tile) + r * kDepth);
    }
  magnitude = seen;
}

// output = input W^T + bias. False if there are numbers that have no parts: the output is not valid then.
template <class S>
bool dense_spmm(const Weights<S>& w, const Activations<const S>& input, const S* bias,
                const Activations<S>& output) {
  constexpr int P = kParts<S>;
  const int64_t panel = panel_samples<P>(input.batch, w.columns), width = width_of_task(w.rows, panel);
  const Scratch parts(Strips<P>::bytes(panel / kTile, w.columns));
  const Strips<P> x{parts.as<Bits>(), panel / kTile};
  SharedMagnitude inputs, values;
  for (int64_t sample = 0; sample < input.batch; sample += panel) {
    const auto from = samples_of(input, sample, panel);
    const Activations<S> to = samples_of(output, sample, panel);
    const int64_t pairs = ceil_div(from.batch, kPair);
    pack(from, Operand::kB, Side::kSamples, x, inputs);
    for_each_task(ceil_div(w.rows, width), [&](int64_t task) {
      const int64_t row = task * width, rows = std::min(width, w.rows - row), blocks = ceil_div(rows, kPair);
      const Scratch scratch(Strips<P>::bytes(2, kChunk) + blocks * pairs * kBlockSize * sizeof(float));
      const Strips<P> strips{scratch.as<Bits>(), 2};
      float* const sums = scratch.as<float>() + Strips<P>::bytes(2, kChunk) / sizeof(float);
      Cursors<S> cursors(w, row, rows);
      for (int64_t r = 0; r < rows; ++r) cursors.next(r) = w.offsets[row + r];
      Magnitude magnitude;
      const TileRegisters registers;
      for (int64_t first = 0; first < w.columns; first += kChunk) {
        const int64_t tiles = ceil_div(std::min(kChunk, w.columns - first), kDepth), word = first / kWord;
        for (int64_t block = 0; block < blocks; ++block) {
          const bool last = block + 1 == blocks;
          expand_rows(w, cursors, block * kPair, word, tiles, last ? 0 : (block + 1) * kPair,
                      last ? word + tiles : word, strips, magnitude);
          for (int64_t pair = 0; pair < pairs; ++pair)
            multiply_strips<P>(strips.at(0, 0), strips.at(1, 0), x.at(2 * pair, first / kDepth),
                               x.at(2 * pair + 1, first / kDepth), tiles, first > 0,
                               sums + (block * pairs + pair) * kBlockSize);
        }
      }
      for (int64_t block = 0; block < blocks; ++block)
        for (int64_t pair = 0; pair < pairs; ++pair)
          deliver(sums + (block * pairs + pair) * kBlockSize, true, pair * kPair, row + block * kPair, bias,
                  to);
      values.see(magnitude);
    });
  }
  return inputs.has_parts() && values.has_parts();
}

// Where the columns of each task begin in each row: (tasks, rows) places.
template <class S>
void find_columns(const Weights<S>& w, int64_t width, int64_t tasks, Index* places) {
  const int64_t words = words_of(w.columns);
  parallel_for(w.rows, 64, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      int64_t place = w.offsets[r];
      for (int64_t word = 0; word < words; ++word) {
        if (word * kWord % width == 0) places[word * kWord / width * w.rows + r] = static_cast<Index>(place);
        place += _mm_popcnt_u32(w.bits[r * words + word]);
      }
    }
  });
}

// grad_input = grad_output W. False as above.
template <class S>
bool dense_spmm_transposed(const Weights<S>& w, const Activations<const S>& grad_output,
                           const Activations<S>& grad_input) {
  constexpr int P = kParts<S>;
  const int64_t panel = panel_samples<P>(grad_output.batch, w.rows), width = width_of_task(w.columns, panel),
                tasks = ceil_div(w.columns, width);
  const Scratch parts(Strips<P>::bytes(panel / kTile, w.rows));
  const Strips<P> y{parts.as<Bits>(), panel / kTile};
  const Scratch found(tasks * w.rows * sizeof(Index));
  Index* const places = found.as<Index>();
  find_columns(w, width, tasks, places);
  SharedMagnitude gradients, values;
  for (int64_t sample = 0; sample < grad_output.batch; sample += panel) {
    const auto from = samples_of(grad_output, sample, panel);
    const Activations<S> to = samples_of(grad_input, sample, panel);
    const int64_t pairs = ceil_div(from.batch, kPair);
    pack(from, Operand::kA, Side::kSamples, y, gradients);
    for_each_task(tasks, [&](int64_t task) {
      const int64_t column = task * width, blocks = ceil_div(std::min(width, w.columns - column), kPair);
      const Index* const begin = places + task * w.rows;
      const Scratch scratch(Strips<P>::bytes(2, kChunk) + blocks * pairs * kBlockSize * sizeof(float));
      const Strips<P> strips{scratch.as<Bits>(), 2};
      float* const sums = scratch.as<float>() + Strips<P>::bytes(2, kChunk) / sizeof(float);
      Magnitude magnitude;
      const TileRegisters registers;
      for (int64_t first = 0; first < w.rows; first += kChunk) {
        const int64_t rows = std::min(kChunk, w.rows - first), tiles = ceil_div(rows, kDepth);
        Cursors<S> cursors(w, first, rows);
        for (int64_t r = 0; r < rows; ++r) cursors.next(r) = begin[first + r];
        const bool more = first + 2 * kChunk <= w.rows;
        for (int64_t block = 0; block < blocks; ++block) {
          expand_columns(w, cursors, tiles, column / kWord + block,
                         more && block + 1 == blocks ? begin + first + kChunk : nullptr, strips, magnitude);
          for (int64_t pair = 0; pair < pairs; ++pair)
            multiply_strips<P>(y.at(2 * pair, first / kDepth), y.at(2 * pair + 1, first / kDepth),
                               strips.at(0, 0), strips.at(1, 0), tiles, first > 0,
                               sums + (block * pairs + pair) * kBlockSize);
        }
      }
      for (int64_t block = 0; block < blocks; ++block)
        for (int64_t pair = 0; pair < pairs; ++pair)
          deliver(sums + (block * pairs + pair) * kBlockSize, false, pair * kPair, column + block * kPair,
                  static_cast<const S*>(nullptr), to);
      values.see(magnitude);
    });
  }
  return gradients.has_parts() && values.has_parts();
}

// Of the products of 32 rows, in as many blocks, the columns of each being those of a word, the connections.
// Those of other rows, from another word on, which come next, are asked for.
template <class S>
void pick_block(Cursors<S>& cursors, float* products, int64_t row, int64_t word, int64_t blocks,
                int64_t next_row, int64_t next_word, bool add, float* grad_values) {
  for (int64_t r = 0; r < kPair; ++r) {
    const float* ahead = grad_values + cursors.next(next_row + r);
    for (int64_t block = 0; block < blocks; ++block) {
      const float* const low = row_of_block(products + block * kBlockSize, r);
      pick(low, low + kTile * kTile, cursors.take(row + r, word + block), add, grad_values);
      __builtin_prefetch(ahead, 1);
      ahead += _mm_popcnt_u32(cursors.columns(next_row + r, next_word + block));
    }
    __builtin_prefetch(ahead, 1);
  }
}

// grad_values = grad_output^T input at the connections of W, in the type of the sums, for they are added up
// over the panels. False as above.
template <class S>
bool dense_sddmm(const Weights<S>& w, const Activations<const S>& grad_output,
                 const Activations<const S>& input, float* grad_values) {
  constexpr int P = kParts<S>;
  const int64_t batch = input.batch, panel = panel_samples<P>(batch, w.rows + w.columns),
                width = width_of_task(w.rows, panel);
  const int64_t row_strips = ceil_div(w.rows, kPair) * 2, column_strips = ceil_div(w.columns, kPair) * 2;
  const Scratch y_parts(Strips<P>::bytes(row_strips, panel)), x_parts(Strips<P>::bytes(column_strips, panel));
  const Strips<P> y{y_parts.as<Bits>(), row_strips}, x{x_parts.as<Bits>(), column_strips};
  SharedMagnitude gradients, inputs;
  for (int64_t sample = 0; sample < batch; sample += panel) {
    const auto from = samples_of(input, sample, panel);
    const int64_t tiles = ceil_div(from.batch, kDepth);
    pack(samples_of(grad_output, sample, panel), Operand::kA, Side::kFeatures, y, gradients);
    pack(from, Operand::kB, Side::kFeatures, x, inputs);
    for_each_task(ceil_div(w.rows, width), [&](int64_t task) {
      const int64_t row = task * width, rows = std::min(width, w.rows - row), blocks = ceil_div(rows, kPair);
      constexpr int64_t kPairs = kChunk / kPair;
      const Scratch scratch(kPairs * kBlockSize * sizeof(float));
      float* const products = scratch.as<float>();  // kPairs blocks of 32 x 32
      Cursors<S> cursors(w, row, rows);
      for (int64_t r = 0; r < rows; ++r) cursors.next(r) = w.offsets[row + r];
      const TileRegisters registers;
      for (int64_t first = 0; first < w.columns; first += kChunk) {
        const int64_t pairs = ceil_div(std::min(kChunk, w.columns - first), kPair);
        for (int64_t block = 0; block < blocks; ++block) {
          for (int64_t t = 0; t < tiles; t += kDeep)
            for (int64_t pair = 0; pair < pairs; ++pair) {
              const int64_t a = row / kTile + 2 * block, b = first / kTile + 2 * pair;
              multiply_strips<P>(y.at(a, t), y.at(a + 1, t), x.at(b, t), x.at(b + 1, t),
                                 std::min(kDeep, tiles - t), t > 0, products + pair * kBlockSize);
            }
          const bool last = block + 1 == blocks;
          pick_block(cursors, products, block * kPair, first / kWord, pairs, last ? 0 : (block + 1) * kPair,
                     last ? first / kWord + pairs : first / kWord, sample > 0, grad_values);
        }
      }
    });
  }
  return gradients.has_parts() && inputs.has_parts();
}

#endif

}  // namespace sparselinear
