// The inner loops, compiled by themselves: half of the work, beside the rest of it.
#include "micro_impl.h"

namespace sparselinear {

template Micro<Sum> micro<Sum>(int, int);

}  // namespace sparselinear
