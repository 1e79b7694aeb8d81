// The operators for values of the type of the sums.
#include "typed_impl.h"

namespace sparselinear {

template struct Typed<Sum>;

}  // namespace sparselinear
