// Values from CSR to CSC order and back, by the permutation that a pattern keeps.
#pragma once

#include <algorithm>
#include <type_traits>

#include "parallel.h"
#include "scratch.h"
#include "structure.h"
#include "vector.h"

namespace sparselinear {

// Bytes of values from which on columns are walked in blocks, where values are gathered and where they are
// scattered; and of a block. The translation buffer of the second level holds 2,000 to 4,000 pages of 4 KiB,
// in which values lie, and what is to be read can be asked for earlier than what is to be written.
constexpr int64_t kGatheredInBlocks = 24 << 20, kScatteredInBlocks = 8 << 20, kBlockBytes = 4 << 20;

// How far ahead places are asked for, in connections: to be gathered, if the second-level cache does not hold
// the values, and to be scattered to. The next column may begin before that.
//
// Time with gathered ones 512 ahead, into that cache, over that of 32 ahead into the first from 8 MiB on and
// else of none; Zen 5, transposed product and both gradients. 4096 x 4096, 10 %: batch 64 0.76, 0.82; 256
// 0.88, 0.92. 16,384 x 16,384, 1 %, batch 64: 0.78, 0.80. 200,000, 20 a row, batch 32: 0.88, 0.97. Where the
// values are still in the last level from a forward just before, it is up to 1.04 (10 %, batch 64, a step).
constexpr int64_t kGatherAhead = 512, kScatterAhead = 32, kNear = 1 << 20;

// In how many blocks of CSR order columns are walked through: one, unless the values, `size` bytes each, are
// more than `most` bytes, and columns are long.
inline int64_t blocks_of(const Structure& columns, int64_t size, int64_t most) {
  constexpr int64_t kLongRun = 32;
  const int64_t nnz = columns.nnz(), blocks = ceil_div(nnz * size, kBlockBytes);
  return nnz * size <= most || nnz < kLongRun * blocks * columns.rows ? 1 : blocks;
}

// Calls move(k, order[k]) for each connection k in CSC order, order[k] being its place in CSR order. Where
// there is one block, fetch(place) is called for the place `ahead` of it.
//
// A column has its places in as many rows, thousands of pages apart, and the next column has them beside
// those. So a task takes many columns, and for them one block of the rows after the other, whose pages and
// lines then stay at hand. Time of one block over that of several, 4096 x 4096, 2 threads, gradients back:
// 20 %: 1.8; 40 %: 2.3; at 10 % one is faster: 0.5. Values to CSC order, 8192 x 8192, 20 %: 1.13 of the
// transposed product, batch 64; at half as many 1.0.
template <class Fetch, class Move>
void for_each_connection(const Structure& columns, const Index* order, int64_t blocks, int64_t ahead,
                         const Fetch& fetch, const Move& move) {
  constexpr int64_t kRun = 16, kMostColumns = 512;
  const int64_t nnz = columns.nnz();
  if (blocks == 1) {
    parallel_for(nnz, 1 << 14, [&](int64_t first, int64_t last) {
      int64_t k = first;
      for (; k < last - ahead; ++k) {
        fetch(order[k + ahead]);
        move(k, order[k]);
      }
      for (; k < last; ++k) move(k, order[k]);
    });
    return;
  }
  const int64_t fair = columns.rows / (4 * thread_count()),
                width = std::clamp<int64_t>(fair, 64, kMostColumns);
  for_each_task(ceil_div(columns.rows, width), [&](int64_t task) {
    const Index* offsets = columns.offsets + task * width;
    const int64_t count = std::min(width, columns.rows - task * width);
    Index place[kMostColumns];
    std::copy(offsets, offsets + count, place);
    for (int64_t block = 1; block <= blocks; ++block) {
      const int64_t limit = block == blocks ? nnz : nnz / blocks * block;
      for (int64_t c = 0; c < count; ++c) {
        int64_t k = place[c];
        const int64_t end = offsets[c + 1];
        for (; k + kRun <= end && order[k + kRun - 1] < limit; k += kRun)
          for (int64_t i = 0; i < kRun; ++i) move(k + i, order[k + i]);
        for (; k < end && order[k] < limit; ++k) move(k, order[k]);
        place[c] = static_cast<Index>(k);
      }
    }
  });
}

// Values in the order of a permutation, if there is one, in the type of the sums; no copy where they have
// both already.
template <class A, class S>
class Ordered {
 public:
  Ordered(const Structure& columns, const S* values, const Index* order)
      : scratch_(!values || (std::is_same_v<A, S> && !order) ? 0 : columns.nnz() * sizeof(A)) {
    if constexpr (std::is_same_v<A, S>)
      if (!order) {
        data_ = values;
        return;
      }
    A* to = scratch_.template as<A>();
    data_ = to;
    if (!values) return;
    const auto move = [=](int64_t k, int64_t place) { to[k] = load_one(values + place); };
    constexpr int64_t kSize = sizeof(S);
    if (order && columns.nnz() * kSize > kNear)
      for_each_connection(
          columns, order, blocks_of(columns, kSize, kGatheredInBlocks), kGatherAhead,
          [=](int64_t place) { __builtin_prefetch(values + place, 0, 2); }, move);
    else if (order)
      for_each_connection(columns, order, 1, 0, [](int64_t) {}, move);
    else
      parallel_for(columns.nnz(), 1 << 14, [=](int64_t first, int64_t last) {
        for (int64_t k = first; k < last; ++k) to[k] = load_one(values + k);
      });
  }
  const A* data() const {
    return data_;
  }

 private:
  Scratch scratch_;
  const A* data_;
};

// The way back: room for numbers in the type of the sums, one a connection, and then to their places.
template <class A, class S>
class Dots {
 public:
  Dots(const Structure& columns, const Index* order, S* to)
      : columns_(columns),
        order_(order),
        to_(to),
        scratch_(std::is_same_v<A, S> && !order ? 0 : columns.nnz() * sizeof(A)) {}

  A* data() const {
    if constexpr (std::is_same_v<A, S>)
      if (!order_) return to_;
    return scratch_.template as<A>();
  }

  void deliver() const {
    const A* from = data();
    S* const to = to_;
    const Index* const order = order_;
    const int64_t nnz = columns_.nnz();
    if (order)
      for_each_connection(
          columns_, order, blocks_of(columns_, sizeof(S), kScatteredInBlocks), kScatterAhead,
          [=](int64_t place) { __builtin_prefetch(to + place, 1); },
          [=](int64_t k, int64_t place) { store_one(to + place, from[k]); });
    else if constexpr (!std::is_same_v<A, S>)
      parallel_for(nnz, 1 << 14, [=](int64_t first, int64_t last) {
        for (int64_t k = first; k < last; ++k) store_one(to + k, from[k]);
      });
  }

 private:
  Structure columns_;
  const Index* order_;
  S* to_;
  Scratch scratch_;
};

}  // namespace sparselinear
