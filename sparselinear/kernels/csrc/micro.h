// The inner loops: some rows of a sparse matrix times a panel, the fused backward over some columns, and rows
// that add to columns, for panels of one width each. Instantiated in micro_float.cpp and micro_double.cpp.
#pragma once

#include "packing.h"

namespace sparselinear {

// Compressed rows: offsets (rows + 1,), index (nnz,) with as many values, in the type of the sums. To the
// backward the columns of W are the rows.
template <class A, class I>
struct Sparse {
  const I* offsets;
  const I* index;
  const A* values;
  int64_t rows;
  int64_t nnz() const {
    return rows ? static_cast<int64_t>(offsets[rows]) : 0;
  }
};

// A place between two connections: the row it is in, and the connections before it.
struct Place {
  int64_t row, connection;
};

// The connections from one place to the next. What a chunk holds of a row that begins before it or ends after
// it is a piece of a split row.
struct Chunk {
  Place begin, end;
};

// What the connections from `offsets[0]` on belong to: at most kBlock rows, row r up to offsets[r + 1].
template <class I>
struct Span {
  const I* offsets;
  int64_t rows;
  int64_t connections() const {
    return offsets[rows] - offsets[0];
  }
};

// Some columns of W.
template <class I>
struct Columns {
  I first, limit;
};

// Rows of `width` numbers, one for each row of a span: of a tile, or of activations that lie so.
template <class A>
struct Rows {
  A* data;
  int64_t stride;
  A* row(int64_t r) const {
    return data + r * stride;
  }
};

// The loops for one width of panels.
template <class A, class I>
struct Micro {
  int lanes, width;
  // sums = W panel
  void (*multiply)(const Panel<A>&, const Sparse<A, I>&, Span<I>, Rows<A> sums);
  // sums = W panel, and dots[k] (+)= panel row index[k] . row of x of connection k, in one pass.
  void (*multiply_and_dot)(const Panel<A>&, const Sparse<A, I>&, Span<I>, Rows<const A> x, bool add,
                           Rows<A> sums, A* dots);
  // The dot products alone; there need be no values.
  void (*dot)(const Panel<A>&, const Sparse<A, I>&, Span<I>, Rows<const A> x, bool add, Rows<A> sums,
              A* dots);
  // sums += W^T panel, by the connections of a chunk that are in these columns.
  void (*scatter)(const Panel<A>&, const Sparse<A, I>&, const Chunk&, const Columns<I>&, A* sums);
};

// For 1, 4, 8, ... lanes, up to kLanes<A>, of which there are then 1 to 4 vectors, or kMostVectors.
template <class A, class I>
Micro<A, I> micro(int lanes, int vectors);

}  // namespace sparselinear
