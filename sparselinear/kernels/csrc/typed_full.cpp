// The operators for values of full precision.
#include "typed_impl.h"

namespace sparselinear {

template struct Typed<float>;
template struct Typed<double>;

}  // namespace sparselinear
