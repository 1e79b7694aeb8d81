// Definition of the inner loops that micro.h declares.
#pragma once

#include "gathered.h"
#include "short_rows.h"

namespace sparselinear {

// Independent sums, which hide the latency of an addition: as many as make `most` vectors together.
template <int V>
constexpr int chains(int most) {
  return V < most ? most / V : 1;
}

// sum (+)= values[k] * row index[k] of the source, over k from first to last.
template <int L, int V, bool kNear, class A>
__attribute__((always_inline)) inline void weighted_sum(const Source<L * V, kNear, A>& source,
                                                        const Sparse<A>& w, int64_t first, int64_t last,
                                                        bool add, A* sum) {
  constexpr int kChains = chains<V>(8);
  using Vec = Vector<A, L>;
  const int64_t nnz = w.nnz();
  Vec chain[kChains][V] = {};
  if (add)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) chain[0][v] = load<L>(sum + v * L);
  const auto step = [&](Vec(&into)[V], int64_t k) __attribute__((always_inline)) {
    const A* row = source.row(w.index[k]);
    const A value = w.values[k];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) into[v] += value * load<L>(row + v * L);
  };
  const auto step_all = [&](int64_t k) __attribute__((always_inline)) {
    fetch(source, w.index, k, kChains, nnz);
#pragma GCC unroll 8
    for (int c = 0; c < kChains; ++c) step(chain[c], k + c);
  };
  int64_t k = first;
  if (asks_for_pattern(w))
    for (; k + kStretch <= last; k += kStretch) {
      fetch_pattern<true>(w, k);
#pragma GCC unroll 8
      for (int i = 0; i < kStretch; i += kChains) step_all(k + i);
    }
  for (; k + kChains <= last; k += kChains) step_all(k);
  fetch(source, w.index, k, last - k, nnz);
  for (; k < last; ++k) step(chain[0], k);
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
#pragma GCC unroll 8
    for (int c = 1; c < kChains; ++c) chain[0][v] += chain[c][v];
    store<L, A>(sum + v * L, chain[0][v]);
  }
}

// From this share of a row on, several rows of W go through a panel in the second-level cache side by side,
// some connections of each in turn: a row of the panel that one of them has read is then still in the first
// level when it is the turn of the others. As many as there are registers for their sums. Time of one row
// after the other over that, forward of 4096 x 4096, batch 256, Zen 5: 2 % 0.97, 3 % 1.0, 5 % 1.03, 10 % 1.0
// to 1.1, 20 % 1.1 to 1.2, the more the busier the caches. In vectors of 8 floats, fewer rows of four of
// these, it is 1.0 to 1.08; from afar, even with rows asked for ahead, 0.2 to 0.6 (20,000 and 40,000
// features, 5 to 20 %).
constexpr double kShared = 0.04;
template <int V>
constexpr int kAbreast = (kVectorBytes == 64 ? 16 : 12) / V;

// Their indices and values are as many streams, each too short for the processor to foresee: with nothing
// asked for ahead it took four times as long.
template <int L, int V, bool kNear, class A>
void multiply_abreast(Source<L * V, kNear, A> source, Sparse<A> w, const Index* offsets, Rows<A> sums) {
  constexpr int kRows = kAbreast<V>, kTurn = 4, kFetched = 48;
  using Vec = Vector<A, L>;
  Index common = offsets[1] - offsets[0];
  for (int r = 1; r < kRows; ++r) common = std::min<Index>(common, offsets[r + 1] - offsets[r]);
  common -= common % kTurn;
  Vec total[kRows][V] = {};
  for (Index done = 0; done < common; done += kTurn)
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Index* const index = w.index + offsets[r] + done;
      const A* const values = w.values + offsets[r] + done;
      __builtin_prefetch(index + kFetched);
      __builtin_prefetch(values + kFetched);
#pragma GCC unroll 4
      for (int i = 0; i < kTurn; ++i) {
        const A* row = source.row(index[i]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) total[r][v] += values[i] * load<L>(row + v * L);
      }
    }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store<L, A>(sums.row(r) + v * L, total[r][v]);
  for (int r = 0; r < kRows; ++r)
    weighted_sum<L, V>(source, w, offsets[r] + common, offsets[r + 1], true, sums.row(r));
}

template <int L, int V, bool kNear, class A>
void multiply_rows(Source<L * V, kNear, A> source, Sparse<A> w, Span span, bool abreast, Rows<A> sums) {
  int64_t r = 0;
  if constexpr (L == kLanes<A> && V < kFillsRegisters)
    if (abreast)
      for (; r + kAbreast<V> <= span.rows; r += kAbreast<V>)
        multiply_abreast<L, V>(source, w, span.offsets + r, {sums.row(r), sums.stride});
  for (; r < span.rows; ++r) {
    const int64_t first = span.offsets[r], last = span.offsets[r + 1];
    if constexpr (L == 1)
      *sums.row(r) =
          gathered_dot(source.data, w.index + first, w.values + first, last - first, w.nnz() - first);
    else
      weighted_sum<L, V>(source, w, first, last, false, sums.row(r));
  }
}

template <int L, int V, class A>
void multiply(const Panel<A>& panel, const Sparse<A>& w, Span span, Rows<A> sums) {
  const double entries = static_cast<double>(span.rows) * panel.features;
  const bool abreast = panel.ahead == 0 && span.connections() >= kShared * entries;
  with_source<L * V, kVariants<L, V, A>>(panel, [&](auto source) {
    if constexpr (V <= kMostByConnections)
      if (by_connections<L>(w, span)) return multiply_connections<L, V>(source, w, span, sums);
    if constexpr (L == 1)
      if (by_products(span)) return multiply_products(source.data, w, span, sums);
    multiply_rows<L, V>(source, w, span, abreast, sums);
  });
}

// How far ahead the rows of x are asked for, where they are a part of longer ones. The processor does so by
// itself in some builds of the loop, and in others not: both gradients of feature-major activations, 4096 x
// 4096, 1 %, batch 256, took 1.4 ms or 3.4, and 6 or 14 at batch 1024, by where the code came to lie.
constexpr int64_t kRowsAhead = 4;

// Each row of the panel is loaded once, for both results. A dot product comes out of the loop as a vector,
// and L of them in a row are added up together, also where they belong to several rows of W: most graphs have
// fewer than L connections in a row. Long rows have most of theirs added up as they are found, and are summed
// in several chains; of short ones more wait in memory, for the sake of fewer branches.
template <int L, int V, bool kSum, bool kLong, bool kNear, class A>
void multiply_and_dot_rows(Source<L * V, kNear, A> source, Sparse<A> w, Span span, Rows<const A> x, bool add,
                           Rows<A> sums, A* dots) {
  constexpr int kChains = kLong ? chains<V>(kFillsRegisters) : 1, kWaiting = kLong ? L : 8 * L;
  using Vec = Vector<A, L>;
  const int64_t nnz = w.nnz();
  const bool asks = kLong && asks_for_pattern(w);
  Vec waiting[kWaiting];
  int count = 0;  // of those in `waiting`, which are the last before k
  int64_t k = span.offsets[0];
  const auto keep = [&](int64_t at, Vec found) __attribute__((always_inline)) {
    if (add) found += load<L>(dots + at);
    store<L, A>(dots + at, found);
  };
  const auto found_in_waiting = [&](int first) {
    return sparselinear::sums<A, L, L>(first,
                                       [&](int j) __attribute__((always_inline)) { return waiting[j]; });
  };
  for (int64_t r = 0; r < span.rows; ++r) {
    Vec column[V], total[kChains][V] = {};
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) column[v] = load<L>(x.row(r) + v * L);
    if (x.stride != L * V && r + kRowsAhead < span.rows)
      for (int i = 0; i < L * V; i += kPerLine<A>) __builtin_prefetch(x.row(r + kRowsAhead) + i);
    const auto step = [&](int64_t k, int chain) __attribute__((always_inline)) {
      const A* row = source.row(w.index[k]);
      A value = 0;
      if constexpr (kSum) value = w.values[k];
      Vec dot;
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        Vec y = load<L>(row + v * L);
        if constexpr (kSum) {
          keep_in_register(y);
          total[chain][v] += value * y;
        }
        dot = v ? dot + column[v] * y : column[v] * y;
      }
      return dot;
    };
    for (const int64_t last = span.offsets[r + 1]; k < last;) {
      const int64_t run = std::min(last - k, static_cast<int64_t>(kWaiting - count));
      fetch(source, w.index, k, run, nnz);
      if (asks) {
        fetch_pattern<kSum>(w, k);
        __builtin_prefetch(dots + k + kPatternAhead, 1);
      }
      if (kLong && run == L) {
        keep(k, sparselinear::sums<A, L, L>(
                    0, [&](int j) __attribute__((always_inline)) { return step(k + j, j % kChains); }));
        k += L;
        continue;
      }
      for (const int64_t stop = k + run; k < stop; ++k) waiting[count++] = step(k, 0);
      if (count < kWaiting) continue;
      for (int i = 0; i < kWaiting; i += L) keep(k - kWaiting + i, found_in_waiting(i));
      count = 0;
    }
    if constexpr (kSum)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
#pragma GCC unroll 8
        for (int c = 1; c < kChains; ++c) total[0][v] += total[c][v];
        store<L, A>(sums.row(r) + v * L, total[0][v]);
      }
  }
  int i = 0;
  for (; i + L <= count; i += L) keep(k - count + i, found_in_waiting(i));
  if (i < count) {
    std::fill(waiting + count, waiting + i + L, Vec{});
    const Vec found = found_in_waiting(i);
    for (int j = 0; i + j < count; ++j) {
      A& dot = dots[k - count + i + j];
      dot = add ? dot + found[j] : found[j];
    }
  }
}

template <int L, int V, bool kSum, class A>
void multiply_and_dot(const Panel<A>& panel, const Sparse<A>& w, Span span, Rows<const A> x, bool add,
                      Rows<A> sums, A* dots) {
  constexpr bool kVaries = kVariants<L, V, A>;
  const bool are_short = has_short_rows(span);
  with_source<L * V, kVaries>(panel, [&](auto source) {
    if constexpr (!kSum)
      if (are_short) return dot_connections<L, V>(source, w, span, x, add, dots);
    if constexpr (kSum && kVaries)
      if (are_short) return multiply_and_dot_rows<L, V, true, false>(source, w, span, x, add, sums, dots);
    multiply_and_dot_rows<L, V, kSum, true>(source, w, span, x, add, sums, dots);
  });
}

// Row index[k] of `sums` += values[k] * a row of the panel, for k in order, as long as index[k] < limit; no
// index comes twice, so several are under way together.
template <int L, int V, class A>
inline void add_to_rows(const A* row, const Index* index, const A* values, int64_t count, Index limit,
                        A* sums) {
  constexpr int kTogether = chains<V>(4);
  using Vec = Vector<A, L>;
  Vec x[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) x[v] = load<L>(row + v * L);
  const auto at = [=](int64_t k) { return sums + index[k] * static_cast<int64_t>(L * V); };
  int64_t k = 0;
  if constexpr (L * V == 1) {  // the loops alone: 0.65 to 0.9 of the time of those for more samples
    constexpr int N = kGathered<A>;
    for (; k + N <= count && index[k + N - 1] < limit; k += N) {
      const auto sum = gathered(sums, index + k) + load<N>(values + k) * row[0];
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) *at(k + i) = sum[i];
    }
  } else {
    for (; k + kTogether <= count && index[k + kTogether - 1] < limit; k += kTogether) {
      Vec sum[kTogether][V];
#pragma GCC unroll 8
      for (int i = 0; i < kTogether; ++i)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[i][v] = load<L>(at(k + i) + v * L) + values[k + i] * x[v];
#pragma GCC unroll 8
      for (int i = 0; i < kTogether; ++i)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) store<L, A>(at(k + i) + v * L, sum[i][v]);
    }
  }
  for (; k < count && index[k] < limit; ++k)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      A* const to = at(k) + v * L;
      store<L, A>(to, load<L>(to) + values[k] * x[v]);
    }
}

// The place of the first of `count` indices, in order, that is not below `limit`; without a branch that
// depends on them.
inline int64_t count_below(const Index* index, int64_t count, Index limit) {
  const Index* const begin = index;
  for (; count > 1; count -= count / 2) index += index[count / 2 - 1] < limit ? count / 2 : 0;
  return index - begin + (count > 0 && *index < limit);
}

template <int L, int V, class A>
void scatter(const Panel<A>& panel, const Sparse<A>& w, const Chunk& chunk, const Columns& columns, A* sums) {
  int64_t k = chunk.begin.connection;
  for (int64_t first = chunk.begin.row; k < chunk.end.connection; first += kBlock) {
    const Span span{w.offsets + first, std::min(kBlock, w.rows - first)};
    const int64_t last = std::min<int64_t>(span.offsets[span.rows], chunk.end.connection);
    if (scatters_connections<L * V>(span)) {
      scatter_connections<L, V>(panel.row(first), panel.stride, w, span, k, last, columns, sums);
      k = last;
    }
    for (int64_t r = first; k < last; ++r) {
      const int64_t end = std::min<int64_t>(w.offsets[r + 1], last);
      if (columns.first > 0) k += count_below(w.index + k, end - k, columns.first);
      add_to_rows<L, V>(panel.row(r), w.index + k, w.values + k, end - k, columns.limit, sums);
      k = end;
    }
  }
}

template <int L, int V, class A>
Micro<A> micro_of() {
  return {L,
          L * V,
          multiply<L, V, A>,
          multiply_and_dot<L, V, true, A>,
          multiply_and_dot<L, V, false, A>,
          scatter<L, V, A>};
}

template <class A>
Micro<A> micro(int lanes, int vectors) {
  constexpr int N = kLanes<A>;
  if (lanes == 1) return micro_of<1, 1, A>();
  if constexpr (N > 4)
    if (lanes == 4) return micro_of<4, 1, A>();
  if constexpr (N > 8)
    if (lanes == 8) return micro_of<8, 1, A>();
  switch (vectors) {
    case 1:
      return micro_of<N, 1, A>();
    case 2:
      return micro_of<N, 2, A>();
    case 3:
      return micro_of<N, 3, A>();
    case 4:
      return micro_of<N, 4, A>();
    default:
      return micro_of<N, kMostVectors, A>();
  }
}

}  // namespace sparselinear
