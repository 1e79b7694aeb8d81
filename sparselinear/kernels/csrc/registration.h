// Registration of operators: each is an overload, named by the type of the indices of this library, so that
// the libraries for both types live side by side.
#pragma once

#include <torch/csrc/stable/library.h>

#include <string>

#include "structure.h"

namespace sparselinear {

inline std::string overload(const char* name) {
  return std::string(name) + (sizeof(Index) == sizeof(int32_t) ? ".int32" : ".int64");
}

template <class Library>
void define(Library& library, const char* name, const char* schema) {
  library.def((overload(name) + schema).c_str());
}

template <class Library, class Boxed>
void implement(Library& library, const char* name, Boxed boxed) {
  library.impl(overload(name).c_str(), boxed);
}

}  // namespace sparselinear
