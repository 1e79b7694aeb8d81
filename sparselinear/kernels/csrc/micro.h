// The inner loops: some rows of a sparse matrix times a panel, the fused backward over some columns, and rows
// that add to columns, for panels of one width each. Instantiated in micro.cpp.
#pragma once

#include "packing.h"
#include "structure.h"

namespace sparselinear {

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
struct Span {
  const Index* offsets;
  int64_t rows;
  int64_t connections() const {
    return offsets[rows] - offsets[0];
  }
};

// Some columns of W.
struct Columns {
  Index first, limit;
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
template <class A>
struct Micro {
  int lanes, width;
  // sums = W panel
  void (*multiply)(const Panel<A>&, const Sparse<A>&, Span, Rows<A> sums);
  // sums = W panel, and dots[k] (+)= panel row index[k] . row of x of connection k, in one pass.
  void (*multiply_and_dot)(const Panel<A>&, const Sparse<A>&, Span, Rows<const A> x, bool add, Rows<A> sums,
                           A* dots);
  // The dot products alone; there need be no values.
  void (*dot)(const Panel<A>&, const Sparse<A>&, Span, Rows<const A> x, bool add, Rows<A> sums, A* dots);
  // sums += W^T panel, by the connections of a chunk that are in these columns.
  void (*scatter)(const Panel<A>&, const Sparse<A>&, const Chunk&, const Columns&, A* sums);
};

// For 1, 4, 8, ... lanes, up to kLanes<A>, of which there are then 1 to 4 vectors, or kMostVectors.
template <class A>
Micro<A> micro(int lanes, int vectors);

}  // namespace sparselinear
