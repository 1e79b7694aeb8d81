// Where the inner loops gather rows from, and asking for these ahead.
#pragma once

#include <algorithm>

#include "micro.h"

namespace sparselinear {

// Where rows of W numbers are gathered from. A near panel is packed and needs no fetching ahead, and the
// compiler knows the distance of its rows. The loops have a copy of their own, and of the sparse matrix, for
// what they store might change another, as far as the compiler knows: with rows of four connections, forward
// took 1.7 times as long with neither, and 1.15 times with the copies alone.
template <int W, bool kNear, class A>
struct Source {
  const A* data;
  int64_t stride, ahead;
  const A* row(int64_t f) const {
    return data + f * (kNear ? W : stride);
  }
};

// Fewer vectors than this leave registers free, of which there are half as many where vectors are shorter.
constexpr int kFillsRegisters = kVectorBytes < 64 ? 4 : 8;

// Whether loops come in variants, for near panels and for rows of few connections. With variants of those for
// few samples and for panels in place too, they would take much longer to compile.
template <int L, int V, class A>
constexpr bool kVariants = L == kLanes<A> && V < kFillsRegisters;

// Calls run(source) for a panel of W samples.
template <int W, bool kVaries, class A, class Run>
__attribute__((always_inline)) inline void with_source(const Panel<A>& panel, const Run& run) {
  if constexpr (kVaries)
    if (panel.stride == W && panel.ahead == 0) return run(Source<W, true, A>{panel.data, W, 0});
  run(Source<W, false, A>{panel.data, panel.stride, panel.ahead});
}

// Asks for the rows that `count` connections will read, source.ahead after k, of `nnz`. Inlined, as a
// compiler drops a call that does nothing else.
template <int W, bool kNear, class A>
__attribute__((always_inline)) inline void fetch(const Source<W, kNear, A>& source, const Index* index,
                                                 int64_t k, int64_t count, int64_t nnz) {
  if (kNear || !source.ahead) return;
  const int64_t end = std::min(k + source.ahead + count, nnz);
  for (k += source.ahead; k < end; ++k)
    for (int i = 0; i < W; i += kPerLine<A>) __builtin_prefetch(source.row(index[k]) + i);
}

// Indices and values are streams, and the processor asks for more of a stream by itself; on some, not far
// enough where rows are gathered between. Time with none asked for over that with, forward and both
// gradients, two to four readings, Zen 3:
//                       batch 32                    batch 256
//   2048 x 2048, 20 %   1.6 to 1.7, 1.2 to 1.3      1.3 to 1.7, 1.1 to 1.25
//   4096 x 1024, 30 %   1.5 to 2.1, 1.2 to 1.3      1.3 to 1.5, 1.1 to 1.2
//   4096 x 4096, 20 %   1.06 to 1.4, 0.9 to 1.2     1.06 to 1.5, 1.06 to 1.1
//   50,000, 30 a row    1.04 to 1.2, 1.0            1.0 to 1.4, 0.86 to 1.08
// No difference beyond noise at 4096 x 4096, 10 %, at 200,000, 20 a row, and with smaller patterns; one code
// in two processes differs by a tenth, or by a quarter where 16 MB and more are written. Vectors of a line
// have not been measured with it.
//
// Once for kStretch connections, kPatternAhead before they are needed, where there are more bytes than
// kLargePattern.
constexpr int64_t kStretch = 8, kPatternAhead = 128, kLargePattern = 4 << 20;

// Whether indices and values are asked for.
template <class A>
bool asks_for_pattern(const Sparse<A>& w) {
  constexpr int64_t kBytes = sizeof(A) + sizeof(Index);
  return kVectorBytes < kLine && w.nnz() * kBytes > kLargePattern;
}

// Asks for those that come kPatternAhead after k. Inlined, as `fetch` is.
template <bool kValues, class A>
__attribute__((always_inline)) inline void fetch_pattern(const Sparse<A>& w, int64_t k) {
  __builtin_prefetch(w.index + k + kPatternAhead);
  if constexpr (kValues) __builtin_prefetch(w.values + k + kPatternAhead);
}

}  // namespace sparselinear
