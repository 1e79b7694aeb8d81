// The operators for values of half precision.
#include "typed_impl.h"

namespace sparselinear {

template struct Typed<BFloat16>;
template struct Typed<Float16>;

}  // namespace sparselinear
