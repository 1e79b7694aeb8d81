// The operators for values of half precision.
#include "typed_impl.h"

namespace sparselinear {

template struct Typed<BFloat16, int32_t>;
template struct Typed<BFloat16, int64_t>;
template struct Typed<Float16, int32_t>;
template struct Typed<Float16, int64_t>;

}  // namespace sparselinear
