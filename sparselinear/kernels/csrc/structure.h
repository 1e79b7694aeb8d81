// The types that this library is for, of sums and of indices, and a sparse matrix as the products see it.
//
// The sources make a library for each pair of types (kernels/build.py): all loops for all of them took 1.4
// to 2 times as long to compile at first use, and most programs need one.
#pragma once

#include <cstdint>

namespace sparselinear {

using Index = SPARSELINEAR_INDEX;
// In which sums of float32, bfloat16 and float16 are taken; or those of float64.
#ifdef SPARSELINEAR_DOUBLE
using Sum = double;
#else
using Sum = float;
#endif

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
