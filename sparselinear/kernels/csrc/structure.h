// A sparse matrix as the products see it, and the type of its indices.
//
// The sources make a library for each type of indices (kernels/build.py): all loops for both would take
// more than half as long again to compile at first use, and few layers need 64 bits.
#pragma once

#include <cstdint>

namespace sparselinear {

using Index = SPARSELINEAR_INDEX;

// Compressed rows: offsets (rows + 1,) and index (nnz,), or compressed columns, whose rows are then meant.
struct Structure {
  const Index *offsets, *index;
  int64_t rows;
  int64_t nnz() const {
    return rows ? static_cast<int64_t>(offsets[rows]) : 0;
  }
};

// With as many values as connections, in the type of the sums. To the backward the columns of W are the rows.
template <class A>
struct Sparse : Structure {
  const A* values;
};

}  // namespace sparselinear
