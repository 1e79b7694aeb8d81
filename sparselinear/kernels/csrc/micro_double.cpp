// The inner loops with sums in double.
#include "micro_impl.h"

namespace sparselinear {

template Micro<double> micro<double>(int, int);

}  // namespace sparselinear
