// The inner loops with sums in float.
#include "micro_impl.h"

namespace sparselinear {

template Micro<float, int32_t> micro<float, int32_t>(int, int);
template Micro<float, int64_t> micro<float, int64_t>(int, int);

}  // namespace sparselinear
