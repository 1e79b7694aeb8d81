// The operators for values of half precision, whose sums are taken in float.
#ifndef SPARSELINEAR_DOUBLE

#include "typed_impl.h"

namespace sparselinear {

template struct Typed<BFloat16>;
template struct Typed<Float16>;

}  // namespace sparselinear

#endif
