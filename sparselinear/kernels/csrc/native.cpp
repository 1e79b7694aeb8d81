// The operators of the native kernel, sparselinear::spmm and sparselinear::backward: from tensors to the
// products of products.h, instantiated for each type of values, activations and indices.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <unistd.h>

#include <optional>
#include <tuple>

#include "permute.h"
#include "products.h"

namespace sparselinear {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
struct Type {
  using type = T;
};

template <class F>
void with_scalar(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Float:
      return f(Type<float>());
    case ScalarType::Double:
      return f(Type<double>());
    case ScalarType::BFloat16:
      return f(Type<BFloat16>());
    case ScalarType::Half:
      return f(Type<Float16>());
    default:
      STD_TORCH_CHECK(false, "expected float32, float64, bfloat16 or float16");
  }
}

template <class F>
void with_index(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Int:
      return f(Type<int32_t>());
    case ScalarType::Long:
      return f(Type<int64_t>());
    default:
      STD_TORCH_CHECK(false, "expected int32 or int64 indices");
  }
}

// Bytes of the data cache of a level.
int64_t cache_size(int level) {
  static const int64_t sizes[] = {
#ifdef _SC_LEVEL1_DCACHE_SIZE
      sysconf(_SC_LEVEL1_DCACHE_SIZE), sysconf(_SC_LEVEL2_CACHE_SIZE)
#else
      0, 0
#endif
  };
  return sizes[level - 1] > 0 ? sizes[level - 1] : level == 1 ? 32 << 10 : 1 << 20;
}

bool feature_major(const Tensor& t) {
  return !t.is_contiguous() && t.stride(0) == 1;
}

// Panels (kernels/panels.py has the same rule) for this many samples and features that are gathered: wide
// enough that an index serves many samples, and small enough for the second-level cache where that is
// possible. Where it is not, they have `far_vectors`: two lines in a row are fetched as one, so two vectors
// are the least.
template <class A, class I>
Plan<A, I> plan_for(const Tensor& gathered, int64_t rows, int64_t nnz, int64_t far_vectors) {
  constexpr int N = kLanes<A>;
  const int64_t batch = gathered.size(0), features = gathered.size(1), cache = cache_size(2);
  const auto bytes = [&](int64_t width) { return features * width * static_cast<int64_t>(sizeof(A)); };
  int64_t lanes = N, vectors = 1;
  if (batch < N) {
    for (lanes = batch <= 1 ? 1 : 4; lanes < batch;) lanes *= 2;
    lanes = std::min<int64_t>(lanes, N);
  } else {
    vectors = 4;
    while (vectors > 1 && bytes(vectors * N) > cache / 2) vectors /= 2;
    if (bytes(vectors * N) > cache) vectors = far_vectors;
    const int64_t panels = ceil_div(batch, vectors * N);
    vectors = ceil_div(ceil_div(batch, panels), N);
  }
  const auto loops = micro<A, I>(lanes, vectors);
  const bool read_in_place = batch == 1 || (feature_major(gathered) && nnz < 8 * features);
  // Two thirds of the first-level cache; worth it if a row has 32 connections or more in a block.
  const int64_t block = cache_size(1) * 2 / 3 / (loops.width * static_cast<int64_t>(sizeof(A)));
  const bool dense = block < features && nnz * block >= 32 * rows * features;
  const bool far = bytes(read_in_place ? batch : loops.width) > cache;
  return {loops, read_in_place, far, dense ? block : 0};
}

// Scale-free pattern of 50,000, degree 30, batch 128, one thread: forward 37 ms with two vectors and 44 with
// four, for hubs stay in the cache longer; backward 73 and 66, for there each panel costs a pass over the
// dots.
constexpr int64_t kFarForward = 2, kFarBackward = 4;

// What is only read is asked for as such: else torch would make a copy of a lazy clone (copy on write).
template <class T>
const T* read(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <class T>
const T* read(const std::optional<Tensor>& t) {
  return t ? read<T>(*t) : nullptr;
}

template <class S>
Activations<const S> to_read(const Tensor& t) {
  return {read<S>(t), t.size(0), t.size(1), t.stride(0), t.stride(1)};
}

template <class S>
Activations<S> to_write(const Tensor& t) {
  return {static_cast<S*>(t.mutable_data_ptr()), t.size(0), t.size(1), t.stride(0), t.stride(1)};
}

Tensor empty_activations(const Tensor& like, int64_t features) {
  const int64_t batch = like.size(0);
  if (!feature_major(like)) return torch::stable::new_empty(like, {batch, features});
  return torch::stable::transpose(torch::stable::new_empty(like, {features, batch}), 0, 1);
}

template <class I>
Offsets<I> offsets_of(const Tensor& offsets) {
  return {read<I>(offsets), offsets.size(0) - 1};
}

template <class A, class I>
Sparse<A, I> sparse(const Tensor& offsets, const Tensor& index, const A* values) {
  return {read<I>(offsets), read<I>(index), values, offsets.size(0) - 1};
}

Tensor spmm_operator(const Tensor& offsets, const Tensor& index, const Tensor& values,
                     const std::optional<Tensor>& permutation, const Tensor& input,
                     const std::optional<Tensor>& bias) {
  Tensor output = empty_activations(input, offsets.size(0) - 1);
  with_scalar(values.scalar_type(), [&](auto scalar) {
    with_index(index.scalar_type(), [&](auto integer) {
      using S = typename decltype(scalar)::type;
      using A = Accumulator<S>;
      using I = typename decltype(integer)::type;
      const I* order = read<I>(permutation);
      const Ordered<A, S, I> ordered(offsets_of<I>(offsets), read<S>(values), order, input.size(1));
      const auto w = sparse<A, I>(offsets, index, ordered.data());
      const S* add = read<S>(bias);
      spmm(plan_for<A, I>(input, w.rows, w.nnz(), kFarForward), w, to_read<S>(input), add,
           to_write<S>(output));
    });
  });
  return output;
}

std::tuple<Tensor, Tensor> backward_operator(const Tensor& offsets, const Tensor& index,
                                             const Tensor& permutation, const std::optional<Tensor>& values,
                                             const Tensor& grad_output, const Tensor& input) {
  const int64_t nnz = index.size(0);
  Tensor grad_input =
      values ? empty_activations(grad_output, offsets.size(0) - 1) : torch::stable::new_empty(input, {0, 0});
  Tensor grad_values = torch::stable::new_empty(input, {nnz});
  with_scalar(input.scalar_type(), [&](auto scalar) {
    with_index(index.scalar_type(), [&](auto integer) {
      using S = typename decltype(scalar)::type;
      using A = Accumulator<S>;
      using I = typename decltype(integer)::type;
      const auto columns = offsets_of<I>(offsets);
      const int64_t rows = grad_output.size(1);
      const I* order = read<I>(permutation);
      const S* from = read<S>(values);
      S* to = static_cast<S*>(grad_values.mutable_data_ptr());
      const Ordered<A, S, I> ordered(columns, from, order, rows);
      const Scratch dots(nnz * sizeof(A));
      backward(plan_for<A, I>(grad_output, columns.count, nnz, kFarBackward),
               sparse<A, I>(offsets, index, ordered.data()), values.has_value(), to_read<S>(grad_output),
               to_read<S>(input), to_write<S>(grad_input), dots.template as<A>());
      to_csr_order(columns, dots.template as<A>(), order, rows, to);
    });
  });
  return {grad_input, grad_values};
}

}  // namespace

STABLE_TORCH_LIBRARY(sparselinear, library) {
  library.def(
      "spmm(Tensor offsets, Tensor index, Tensor values, Tensor? permutation, Tensor input, Tensor? bias) -> "
      "Tensor");
  library.def(
      "backward(Tensor offsets, Tensor index, Tensor permutation, Tensor? values, Tensor grad_output, Tensor "
      "input)"
      " -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(sparselinear, CPU, library) {
  library.impl("spmm", TORCH_BOX(&spmm_operator));
  library.impl("backward", TORCH_BOX(&backward_operator));
}

}  // namespace sparselinear
