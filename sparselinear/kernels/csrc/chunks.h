// A pattern cut into chunks of equal cost, by connections and not by rows, and the rows that lie in several.
#pragma once

#include <vector>

#include "micro.h"
#include "parallel.h"

namespace sparselinear {

// Cuts rows into chunks of nearly equal cost, `most` or less, or more where there would be too many: one, or
// an even number, for of three one of two threads takes two. The cost of a row is its connections and
// kRowCost. A row is cut only if it is longer than a chunk: the arrow of an arrow matrix, the hub of a graph.
// The cuts do not depend on the number of threads, so results do not either.
template <class A>
std::vector<Chunk> cut(const Sparse<A>& w, int64_t most) {
  constexpr int64_t kRowCost = 2, kMostChunks = 256;
  const auto cost_before = [&](int64_t r) { return static_cast<int64_t>(w.offsets[r]) + kRowCost * r; };
  const int64_t total = w.rows ? cost_before(w.rows) : 0;
  const int64_t count = std::clamp<int64_t>(ceil_div(total, most), 1, kMostChunks),
                size = ceil_div(total, count == 1 ? 1 : round_up(count, 2));
  std::vector<Chunk> chunks;
  Place begin{0, 0};
  for (int64_t target = size; begin.row < w.rows; target += size) {
    Place end{w.rows, w.nnz()};
    if (target < total) {
      int64_t low = 0, high = w.rows;  // the row whose cost reaches the target
      while (low + 1 < high) {
        const int64_t middle = (low + high) / 2;
        (cost_before(middle) <= target ? low : high) = middle;
      }
      const int64_t first = w.offsets[low], last = w.offsets[low + 1];
      end = {low, first};
      if (last - first > size)
        end.connection += std::min((target - cost_before(low)) / 16 * 16, last - first);
    }
    const bool further = end.row > begin.row || (end.row == begin.row && end.connection > begin.connection);
    if (!further) continue;
    chunks.push_back({begin, end});
    begin = end;
  }
  return chunks;
}

// Calls rows(first, last) for the rows that lie in the chunk as a whole, and piece(at_end, row, first, last)
// for the connections of a row that is shared with the chunk before it or after it.
template <class A, class Rows, class Piece>
void walk(const Sparse<A>& w, const Chunk& chunk, const Rows& rows, const Piece& piece) {
  int64_t first = chunk.begin.row;
  if (chunk.begin.connection > w.offsets[first]) {
    const bool whole = chunk.end.row == first;
    piece(false, first, chunk.begin.connection,
          whole ? chunk.end.connection : static_cast<int64_t>(w.offsets[first + 1]));
    if (whole) return;
    ++first;
  }
  if (first < chunk.end.row) rows(first, chunk.end.row);
  if (chunk.end.row < w.rows && chunk.end.connection > w.offsets[chunk.end.row])
    piece(true, chunk.end.row, static_cast<int64_t>(w.offsets[chunk.end.row]), chunk.end.connection);
}

// Sums of the pieces of split rows, two for a chunk, added up in the order of the chunks.
template <class A>
class Pieces {
 public:
  Pieces(const Sparse<A>& w, const std::vector<Chunk>& chunks, int64_t width) : width_(width) {
    const auto ignore = [](int64_t, int64_t) {};
    for (size_t c = 0; c < chunks.size(); ++c)
      walk(w, chunks[c], ignore,
           [&](bool at_end, int64_t row, int64_t, int64_t) { slots_.push_back({row, 2 * c + at_end}); });
    if (!slots_.empty()) sums_.resize(2 * chunks.size() * width_);
  }
  A* at(size_t chunk, bool at_end) {
    return sums_.data() + (2 * chunk + at_end) * width_;
  }
  // Calls done(row, sum) for each split row.
  template <class Done>
  void finish(const Done& done) {
    for (size_t s = 0; s < slots_.size();) {
      const int64_t row = slots_[s].row;
      A* sum = sums_.data() + slots_[s].slot * width_;
      for (++s; s < slots_.size() && slots_[s].row == row; ++s)
        for (int64_t i = 0; i < width_; ++i) sum[i] += sums_[slots_[s].slot * width_ + i];
      done(row, sum);
    }
  }

 private:
  struct Slot {
    int64_t row;
    size_t slot;
  };
  int64_t width_;
  std::vector<Slot> slots_;
  std::vector<A> sums_;
};

}  // namespace sparselinear
