// The operators for values of full precision.
#include "typed_impl.h"

namespace sparselinear {

template struct Typed<float, int32_t>;
template struct Typed<float, int64_t>;
template struct Typed<double, int32_t>;
template struct Typed<double, int64_t>;

}  // namespace sparselinear
