// The inner loops, a third of what there is to compile, in a unit beside the others.
#include "micro_impl.h"

namespace sparselinear {

template Micro<Sum> micro<Sum>(int, int);

}  // namespace sparselinear
