// How work is shared among torch's threads: tasks drawn from one counter, and the connections of a
// pattern cut into chunks of equal cost.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "micro.h"

namespace sparselinear {

// Runs task(0) ... task(count - 1), each once, on torch's own pool. Which thread runs which is left to
// chance, so a core that is busy elsewhere delays one task and not its share: nothing may depend on it.
template <class Task>
void for_each_task(int64_t count, const Task& task) {
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), count);
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(i);
  });
}

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// A place between two connections: the row it is in, and the connections before it.
struct Place {
  int64_t row, connection;
};

// The chunk from one place to the next. Its rows from first_row() on are complete up to the last place's
// row; what a chunk holds of a row that begins before it or ends after it is a piece of a split row.
struct Chunk {
  Place begin, end;
};

// Cuts rows into chunks of nearly equal cost, the cost of a row being its connections and kRowCost. A row
// is cut only if it is longer than a chunk: the arrow of an arrow matrix, the hub of a graph. The cuts
// depend on the pattern alone, never on the number of threads, so results do not either.
template <class A, class I>
std::vector<Chunk> cut(const Sparse<A, I>& w, int64_t least_cost) {
  constexpr int64_t kRowCost = 2, kMostChunks = 256;
  const auto cost_before = [&](int64_t r) {
    return static_cast<int64_t>(w.offsets[r]) + kRowCost * r;
  };
  const int64_t total = w.rows ? cost_before(w.rows) : 0;
  const int64_t size = std::max(least_cost, ceil_div(total, kMostChunks));
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
      if (last - first > size) end.connection += std::min((target - cost_before(low)) / 16 * 16, last - first);
    }
    const bool further =
        end.row > begin.row || (end.row == begin.row && end.connection > begin.connection);
    if (!further) continue;
    chunks.push_back({begin, end});
    begin = end;
  }
  return chunks;
}

}  // namespace sparselinear
