// Tensors as the products see them: typed pointers, sizes and strides, and results of the same memory layout.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <optional>

#include "packing.h"
#include "scratch.h"
#include "structure.h"

namespace sparselinear {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
struct Type {
  using type = T;
};

// Calls f(Type<S>()) for a type whose sums are taken in that of this library.
template <class F>
void with_scalar(ScalarType dtype, const F& f) {
  if constexpr (std::is_same_v<Sum, double>) {
    STD_TORCH_CHECK(dtype == ScalarType::Double, "expected float64");
    f(Type<double>());
  } else {
    switch (dtype) {
      case ScalarType::Float:
        return f(Type<float>());
      case ScalarType::BFloat16:
        return f(Type<BFloat16>());
      case ScalarType::Half:
        return f(Type<Float16>());
      default:
        STD_TORCH_CHECK(false, "expected float32, bfloat16 or float16");
    }
  }
}

// What is only read is asked for as such: else torch would make a copy of a lazy clone (copy on write).
template <class T>
const T* read(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <class T>
const T* read(const std::optional<Tensor>& t) {
  return t ? read<T>(*t) : nullptr;
}

template <class T>
T* write(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

template <class S>
Activations<const S> to_read(const Tensor& t) {
  return {read<S>(t), t.size(0), t.size(1), t.stride(0), t.stride(1)};
}

template <class S>
Activations<S> to_write(const Tensor& t) {
  return {write<S>(t), t.size(0), t.size(1), t.stride(0), t.stride(1)};
}

inline const Index* read_indices(const Tensor& t) {
  constexpr auto kType = sizeof(Index) == sizeof(int32_t) ? ScalarType::Int : ScalarType::Long;
  STD_TORCH_CHECK(t.scalar_type() == kType, "expected indices of ", 8 * sizeof(Index), " bits");
  return read<Index>(t);
}

inline const Index* read_indices(const std::optional<Tensor>& t) {
  return t ? read_indices(*t) : nullptr;
}

// A sparse matrix, by rows or by columns.
inline Structure structure(const Tensor& offsets, const Tensor& index) {
  return {read_indices(offsets), read_indices(index), offsets.size(0) - 1};
}

// A result of the type of `like`. glibc keeps up to 32 MiB that were freed; what is larger comes from the
// system each time, and a fault for each of its 4 KiB takes as long as to compute what it holds.
// torch::stable has new_empty, which finds its operator by name each time.
template <size_t N>
Tensor empty_strided(const Tensor& like, const std::array<int64_t, N>& sizes,
                     const std::array<int64_t, N>& strides) {
  constexpr size_t kKept = size_t{32} << 20;
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  size_t bytes = aoti_torch_dtype_element_size(dtype);
  for (const int64_t size : sizes) bytes *= size;
  AtenTensorHandle handle;
  const AOTITorchError failed = aoti_torch_empty_strided(N, sizes.data(), strides.data(), dtype,
                                                         aoti_torch_device_type_cpu(), 0, &handle);
  STD_TORCH_CHECK(!failed, "expected memory for a result of ", bytes,
                  " bytes, but torch can't allocate it; use a smaller batch");
  const Tensor result(handle);
  if (bytes > kKept) ask_for_huge_pages(result.mutable_data_ptr(), bytes);
  return result;
}

// A number for each connection.
inline Tensor empty_values(const Tensor& like, int64_t nnz) {
  return empty_strided<1>(like, {nnz}, {1});
}

// Activations in the memory layout of others.
inline Tensor empty_activations(const Tensor& like, int64_t features) {
  const int64_t batch = like.size(0);
  if (!like.is_contiguous() && like.stride(0) == 1)
    return empty_strided<2>(like, {batch, features}, {1, batch});
  return empty_strided<2>(like, {batch, features}, {std::max<int64_t>(features, 1), 1});
}

}  // namespace sparselinear
