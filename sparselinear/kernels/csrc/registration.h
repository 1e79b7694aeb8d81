// Registration of operators: each is an overload, named by the types of sums and of indices that this library
// is for, so that several libraries live side by side.
#pragma once

#include <torch/csrc/stable/library.h>

#include <string>

#include "structure.h"

namespace sparselinear {

inline std::string overload(const char* name) {
  const char* const sum = sizeof(Sum) == sizeof(float) ? ".float32" : ".float64";
  const char* const index = sizeof(Index) == sizeof(int32_t) ? "_int32" : "_int64";
  return std::string(name) + sum + index;
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
