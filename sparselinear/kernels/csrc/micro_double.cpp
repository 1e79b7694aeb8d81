// The inner loops with sums in double.
#include "micro_impl.h"

namespace sparselinear {

template Micro<double, int32_t> micro<double, int32_t>(int, int);
template Micro<double, int64_t> micro<double, int64_t>(int, int);

}  // namespace sparselinear
