// The operators of the native kernel, sparselinear::spmm and sparselinear::backward: from tensors to the
// products of products.h, instantiated for each type of values, activations and indices.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <unistd.h>

#include <optional>
#include <tuple>

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
    case ScalarType::Float: return f(Type<float>());
    case ScalarType::Double: return f(Type<double>());
    case ScalarType::BFloat16: return f(Type<BFloat16>());
    case ScalarType::Half: return f(Type<Float16>());
    default: STD_TORCH_CHECK(false, "expected float32, float64, bfloat16 or float16");
  }
}

template <class F>
void with_index(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Int: return f(Type<int32_t>());
    case ScalarType::Long: return f(Type<int64_t>());
    default: STD_TORCH_CHECK(false, "expected int32 or int64 indices");
  }
}

int64_t second_level_cache() {
  static const int64_t bytes = [] {
#ifdef _SC_LEVEL2_CACHE_SIZE
    const long found = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (found > 0) return static_cast<int64_t>(found);
#endif
    return int64_t{1} << 20;
  }();
  return bytes;
}

bool feature_major(const Tensor& t) {
  return !t.is_contiguous() && t.stride(0) == 1;
}

// Panels for this many samples and features that are gathered: wide enough that an index serves many
// samples, and small enough for the second-level cache where that is possible.
template <class A, class I>
Plan<A, I> plan_for(const Tensor& gathered, int64_t nnz) {
  constexpr int N = kLanes<A>;
  const int64_t batch = gathered.size(0), features = gathered.size(1), cache = second_level_cache();
  const auto bytes = [&](int64_t width) { return features * width * static_cast<int64_t>(sizeof(A)); };
  int64_t lanes = N, vectors = 1;
  if (batch < N) {
    for (lanes = batch <= 1 ? 1 : 4; lanes < batch;) lanes *= 2;
    lanes = std::min<int64_t>(lanes, N);
  } else {
    // Half of the cache where the rows of a panel are read often, else a quarter.
    const int64_t room = nnz >= 32 * features ? cache / 2 : cache / 4;
    vectors = 4;
    if (getenv("SLV")) vectors = atoi(getenv("SLV"));
    while (vectors > 1 && bytes(vectors * N) > room) vectors /= 2;
    if (bytes(vectors * N) > cache) vectors = 4;
    const int64_t panels = ceil_div(batch, vectors * N);
    vectors = ceil_div(ceil_div(batch, panels), N);
  }
  const auto loops = micro<A, I>(lanes, vectors);
  const bool read_in_place = batch == 1 || (feature_major(gathered) && nnz < 8 * features);
  return {loops, read_in_place, bytes(loops.width) > cache};
}

template <class S>
Activations<S> activations(const Tensor& t) {
  return {static_cast<S*>(t.data_ptr()), t.size(0), t.size(1), t.stride(0), t.stride(1)};
}

Tensor empty_activations(const Tensor& like, int64_t features) {
  const int64_t batch = like.size(0);
  if (!feature_major(like)) return torch::stable::new_empty(like, {batch, features});
  return torch::stable::transpose(torch::stable::new_empty(like, {features, batch}), 0, 1);
}

// Values in the order of a permutation and in the type of the sums; the tensor's own memory where it has
// both already.
template <class A, class S, class I>
class Values {
 public:
  Values(const Tensor& values, const std::optional<Tensor>& permutation)
      : scratch_(std::is_same_v<A, S> && !permutation ? 0 : values.numel() * sizeof(A)) {
    const S* from = static_cast<const S*>(values.data_ptr());
    if constexpr (std::is_same_v<A, S>)
      if (!permutation) {
        data_ = from;
        return;
      }
    A* to = scratch_.template as<A>();
    const I* order = permutation ? static_cast<const I*>(permutation->data_ptr()) : nullptr;
    torch::stable::parallel_for(0, values.numel(), 1 << 14, [=](int64_t first, int64_t last) {
      for (int64_t k = first; k < last; ++k) to[k] = load_one(from + (order ? static_cast<int64_t>(order[k]) : k));
    });
    data_ = to;
  }
  const A* data() const {
    return data_;
  }

 private:
  Scratch scratch_;
  const A* data_;
};

template <class A, class I>
Sparse<A, I> sparse(const Tensor& offsets, const Tensor& index, const A* values) {
  return {static_cast<const I*>(offsets.data_ptr()), static_cast<const I*>(index.data_ptr()), values, offsets.size(0) - 1};
}

Tensor spmm_operator(const Tensor& offsets, const Tensor& index, const Tensor& values, const std::optional<Tensor>& permutation,
            const Tensor& input, const std::optional<Tensor>& bias) {
  Tensor output = empty_activations(input, offsets.size(0) - 1);
  with_scalar(values.scalar_type(), [&](auto scalar) {
    with_index(index.scalar_type(), [&](auto integer) {
      using S = typename decltype(scalar)::type;
      using A = Accumulator<S>;
      using I = typename decltype(integer)::type;
      const Values<A, S, I> ordered(values, permutation);
      const auto w = sparse<A, I>(offsets, index, ordered.data());
      const S* add = bias ? static_cast<const S*>(bias->data_ptr()) : nullptr;
      spmm(plan_for<A, I>(input, w.nnz()), w, activations<S>(input), add, activations<S>(output));
    });
  });
  return output;
}

template <class A, class S, class I>
void to_csr_order(const A* from, const I* permutation, S* to, int64_t nnz) {
  torch::stable::parallel_for(0, nnz, 1 << 14, [=](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) store_one(to + permutation[k], from[k]);
  });
}

std::tuple<Tensor, Tensor> backward_operator(const Tensor& offsets, const Tensor& index, const Tensor& permutation,
                                    const std::optional<Tensor>& values, const Tensor& grad_output, const Tensor& input) {
  const int64_t nnz = index.size(0);
  Tensor grad_input = values ? empty_activations(input, offsets.size(0) - 1) : torch::stable::new_empty(input, {0, 0});
  Tensor grad_values = torch::stable::new_empty(input, {nnz});
  with_scalar(input.scalar_type(), [&](auto scalar) {
    with_index(index.scalar_type(), [&](auto integer) {
      using S = typename decltype(scalar)::type;
      using A = Accumulator<S>;
      using I = typename decltype(integer)::type;
      const Scratch dots(nnz * sizeof(A));
      std::optional<Values<A, S, I>> ordered;
      if (values) ordered.emplace(*values, permutation);
      const auto w = sparse<A, I>(offsets, index, values ? ordered->data() : nullptr);
      backward(plan_for<A, I>(grad_output, nnz), w, activations<S>(grad_output), activations<S>(input),
               activations<S>(grad_input), dots.template as<A>());
      to_csr_order(dots.template as<A>(), static_cast<const I*>(permutation.data_ptr()),
                   static_cast<S*>(grad_values.data_ptr()), nnz);
    });
  });
  return {grad_input, grad_values};
}

}  // namespace

STABLE_TORCH_LIBRARY(sparselinear, library) {
  library.def(
      "spmm(Tensor offsets, Tensor index, Tensor values, Tensor? permutation, Tensor input, Tensor? bias) -> Tensor");
  library.def(
      "backward(Tensor offsets, Tensor index, Tensor permutation, Tensor? values, Tensor grad_output, Tensor input)"
      " -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(sparselinear, CPU, library) {
  library.impl("spmm", TORCH_BOX(&spmm_operator));
  library.impl("backward", TORCH_BOX(&backward_operator));
}

}  // namespace sparselinear
