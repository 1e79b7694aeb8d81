// Rows of few connections, gone through connection by connection, or as products that are summed up later.
//
// Row by row, the end of each is a branch, which the processor guesses wrong for most rows of a pattern
// without order, unless it remembers them all from one product to the next: forward of 100,000 rows of one
// connection each in the mean, batch 1, Zen 5, took 11 ns a row and thread. By connections nothing depends on
// where a row ends. Sums, or the rows of x, are in memory then and not in registers, which is the price.
#pragma once

#include "gathered.h"
#include "source.h"

namespace sparselinear {

// Connections a row, in the mean, below which rows are short. Time of both gradients with dot products row by
// row over that by connections, batch 1 to 32, Zen 5: 3 connections a row 1.1 to 1.4, 8 1.1 to 1.2, 12 1.1 to
// 1.3, 24 1.0. Where one pass takes both gradients, time of the loops for long rows over those for short
// ones, panels of two vectors: 4 connections a row 1.7, 20 1.1, 40 1.0, 80 0.87, 400 0.8.
constexpr int64_t kLongRow = 32;

inline bool has_short_rows(const Span& span) {
  return span.connections() < kLongRow * span.rows;
}

// For each connection of a span of short rows what belongs to its row, value(r). It is written as a vector
// for each row, and what of that is beyond its end again by the next.
template <class T>
class OfRows {
 public:
  template <class Value>
  OfRows(const Span& span, const Value& value) : first_(span.offsets[0]) {
    for (int64_t r = 0; r < span.rows; ++r) {
      const auto row = value(r) - Copies{};  // a zero keeps its sign
      T *to = values_ + (span.offsets[r] - first_), *end = values_ + (span.offsets[r + 1] - first_);
      do {
        std::memcpy(to, &row, sizeof row);
        to += kCopies;
      } while (to < end);
    }
  }
  const T& operator[](int64_t k) const {
    return values_[k - first_];
  }

 private:
  static constexpr int kCopies = 16;
  typedef T Copies __attribute__((vector_size(kCopies * sizeof(T))));
  int64_t first_;
  T values_[kBlock * kLongRow + kCopies];
};

// The row, in its span, that each connection is in.
inline OfRows<uint8_t> row_numbers(const Span& span) {
  static_assert(kBlock <= 256);
  return {span, [](int64_t r) { return static_cast<uint8_t>(r); }};
}

// sum += value * row.
template <int L, int V, class A>
__attribute__((always_inline)) inline void add_to(A* sum, A value, const A* row) {
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) store<L, A>(sum + v * L, load<L>(sum + v * L) + value * load<L>(row + v * L));
}

// Whether a row is, as a rule, not as long as the one before: at least each fourth.
inline bool lengths_vary(const Span& span) {
  Index changes = 0;
  for (int64_t r = 1; r < span.rows; ++r)
    changes += span.offsets[r + 1] - span.offsets[r] != span.offsets[r] - span.offsets[r - 1];
  return 4 * changes >= span.rows;
}

// Whether forward goes by connections: rows of up to so many vectors; below so many connections a row, in the
// mean, in any pattern, of a single sample and of more; and of more, where lengths vary and the rows are more
// than the processor remembers, below kFew. Time row by row over that by connections, batch 4, 16, 32, Zen 5:
//   100,000 rows, lengths vary    1 a row 2.6, 2.1, 1.6    2 a row 1.8, 1.4, 1.2
//                                 3 a row 1.6, 1.2, 1.1    8 a row 1.2, 1.1, 1.0
//   100,000 rows, all alike       1 a row 1.0, 1.0, 1.0    4 a row 0.9, 1.0, 1.0
// Batch 4, lengths vary, 1, 2 and 4 a row: 4,000 rows 1.1, 1.0, 0.8; 16,000 1.2, 1.0, 0.8;
// 32,000 1.5, 1.4, 1.2.
constexpr int kMostByConnections = 2;
constexpr int64_t kFewOfOne = 3, kFewOfMore = 2, kFew = 8, kManyRows = 1 << 15;

template <int L, class A>
bool by_connections(const Sparse<A>& w, const Span& span) {
  const int64_t connections = span.connections();
  if (connections < (L == 1 ? kFewOfOne : kFewOfMore) * span.rows) return true;
  return L > 1 && connections < kFew * span.rows && w.rows >= kManyRows && lengths_vary(span);
}

template <int L, int V, bool kNear, class A>
void multiply_connections(Source<L * V, kNear, A> source, Sparse<A> w, Span span, Rows<A> sums) {
  const auto row_of = row_numbers(span);
  for (int64_t r = 0; r < span.rows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store<L, A>(sums.row(r) + v * L, Vector<A, L>{});
  const int64_t last = span.offsets[span.rows], nnz = w.nnz();
  for (int64_t k = span.offsets[0]; k < last; ++k) {
    fetch(source, w.index, k, 1, nnz);
    add_to<L, V>(sums.row(row_of[k]), w.values[k], source.row(w.index[k]));
  }
}

// Whether forward of a single sample goes by products: those of all connections first, then the sums of as
// many rows as a vector has lanes together, with zeros in the lanes that are beyond a row. ns a row and
// thread as dot products and by products, 4096 features, Zen 5, lengths vary:
//   connections a row     1          4           8           12          20          31
//   float32               7.8, 2.4   11.5, 3.1   13.3, 4.0   14.1, 5.3   15.4, 7.3   18.3, 10.8
//   float64               5.6, 2.3    9.7, 3.4   11.9, 4.8   12.7, 6.6   14.5, 9.9   19.1, 22.2
//   float32, 4,000 rows   1.9, 2.3    2.4, 3.0    3.0, 3.9    4.1, 5.3    6.2, 7.3    8.9, 10.5
// So few are remembered, if nothing runs between two products, as all are that are alike, which therefore go
// by dot products. By connections it is 1.6, 3.4 and 6.7 for 1, 4 and 8.
inline bool by_products(const Span& span) {
  return has_short_rows(span) && lengths_vary(span);
}

template <class A>
void multiply_products(const A* x, const Sparse<A>& w, const Span& span, Rows<A> sums) {
  constexpr int N = kGathered<A>, L = kLanes<A>;
  const int64_t first = span.offsets[0], nnz = span.connections();
  const Index* const index = w.index + first;
  const A* const values = w.values + first;
  alignas(64) A products[kBlock * kLongRow + L];
  by_vectors<A>(
      0, nnz,
      [&](int64_t k) __attribute__((always_inline)) {
        store<N>(products + k, load<N>(values + k) * gathered(x, index + k));
      },
      [&](int64_t k) { products[k] = values[k] * x[index[k]]; });
  for (int64_t r = 0; r < span.rows; r += L) {
    const int64_t rows = std::min<int64_t>(L, span.rows - r);
    int64_t begin[L] = {}, left[L] = {}, longest = 0;
    for (int j = 0; j < rows; ++j) {
      begin[j] = span.offsets[r + j] - first;
      left[j] = span.offsets[r + j + 1] - span.offsets[r + j];
      longest = std::max(longest, left[j]);
    }
    Vector<A, L> sum{};
    for (int64_t done = 0; done < longest; done += L)
      sum += sparselinear::sums<A, L, L>(0, [&](int j) __attribute__((always_inline)) {
        return first_of<L, A>(load<L>(products + std::min(begin[j] + done, nnz)), left[j] - done);
      });
    for (int j = 0; j < rows; ++j) *sums.row(r + j) = sum[j];
  }
}

template <int L, int V, bool kNear, class A>
void dot_connections(Source<L * V, kNear, A> source, Sparse<A> w, Span span, Rows<const A> x, bool add,
                     A* dots) {
  using Vec = Vector<A, L>;
  const auto row_of = row_numbers(span);
  const int64_t last = span.offsets[span.rows], nnz = w.nnz();
  const auto dot = [&](int64_t k) __attribute__((always_inline)) {
    const A *row = source.row(w.index[k]), *own = x.row(row_of[k]);
    Vec sum = load<L>(own) * load<L>(row);
#pragma GCC unroll 8
    for (int v = 1; v < V; ++v) sum += load<L>(own + v * L) * load<L>(row + v * L);
    return sum;
  };
  int64_t k = span.offsets[0];
  for (; k + L <= last; k += L) {
    fetch(source, w.index, k, L, nnz);
    Vec found = sums<A, L, L>(0, [&](int j) __attribute__((always_inline)) { return dot(k + j); });
    if (add) found += load<L>(dots + k);
    store<L, A>(dots + k, found);
  }
  Vec rest[L] = {};
  for (int j = 0; k + j < last; ++j) rest[j] = dot(k + j);
  const Vec found = sums<A, L, L>(0, [&](int j) __attribute__((always_inline)) { return rest[j]; });
  for (int j = 0; k + j < last; ++j) dots[k + j] = add ? dots[k + j] + found[j] : found[j];
}

// Whether grad_input by rows goes by connections, for sums of so many samples. Time row by row over that,
// both gradients, rows of 1, 2, 4, 6 and 8 connections in the mean, batch 4 and 16, Zen 5: lengths
// vary 1.4, 1.4; 1.4, 1.3; 1.3, 1.2; 1.5, 1.0; 1.2, 1.0. All alike 0.9 to 1.1. A single sample, grad_input
// alone, lengths vary, 20,000 to 100,000 rows: 8 a row 2.3 with 10,000 columns and 1.05 with 100,000, 12 a
// row 1.9, 24 a row 1.2, 30 a row 1.25; 2,000 and 4,096 rows of 10 and 20, remembered as long as nothing else
// runs, 1.0 and 0.95, float64 0.88.
template <int W>
bool scatters_connections(const Span& span) {
  return span.connections() < (W == 1 ? kLongRow : kFew) * span.rows && lengths_vary(span);
}

// The connections first to last of a span, whose rows begin at `rows`, that are in these columns. A column
// may come twice, so sums are taken one after the other; of a single sample as many products are taken
// together as a vector of 16 bytes has: 100,000 rows and columns, 5 and 8 a row 1.1 times as long so, 12 a
// row 0.85 of the time, and 0.78 with 10,000 columns and 8 a row.
template <int L, int V, class A>
void scatter_connections(const A* rows, int64_t stride, const Sparse<A>& w, const Span& span, int64_t first,
                         int64_t last, const Columns& columns, A* sums) {
  const auto among = [=](Index column) { return column >= columns.first && column < columns.limit; };
  if constexpr (L * V == 1) {
    constexpr int N = kGathered<A>;
    const OfRows<A> row(span, [=](int64_t r) { return rows[r * stride]; });
    const auto add = [&](int64_t k, A product) __attribute__((always_inline)) {
      if (among(w.index[k])) sums[w.index[k]] += product;
    };
    by_vectors<A>(
        first, last,
        [&](int64_t k) __attribute__((always_inline)) {
          const auto product = load<N>(w.values + k) * load<N>(&row[k]);
#pragma GCC unroll 4
          for (int i = 0; i < N; ++i) add(k + i, product[i]);
        },
        [&](int64_t k) { add(k, w.values[k] * row[k]); });
  } else {
    const auto row_of = row_numbers(span);
    for (int64_t k = first; k < last; ++k)
      if (const Index column = w.index[k]; among(column))
        add_to<L, V>(sums + column * static_cast<int64_t>(L * V), w.values[k], rows + row_of[k] * stride);
  }
}

}  // namespace sparselinear
