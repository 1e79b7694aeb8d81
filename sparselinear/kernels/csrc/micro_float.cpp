// The inner loops with sums in float.
#include "micro_impl.h"

namespace sparselinear {

template Micro<float> micro<float>(int, int);

}  // namespace sparselinear
