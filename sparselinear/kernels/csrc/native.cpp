// The operators of the native kernel, sparselinear::spmm, scatter, sddmm and backward: from tensors to the
// products of products.h, scatter.h and outer.h, instantiated for each type of values, activations and
// indices.
#include <torch/csrc/stable/library.h>
#include <unistd.h>

#include <tuple>

#include "dense_vectors.h"
#include "outer.h"
#include "permute.h"
#include "products.h"
#include "scatter.h"
#include "tensors.h"

namespace sparselinear {
namespace {

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

// Vectors of a panel: the fewest where a second-level cache holds it, and those where none does. And how
// often the rows of feature-major activations are read at most, in the mean, if they are not copied into
// panels.
struct Widths {
  int64_t fewest, far, few_times;
};

// Where a vector is a line, one is enough for forward; in backward, where each panel costs a pass over the
// dots, two took 0.78 and 0.92 of the time (8,192 features, 0.2 and 2 %, batch 256, Zen 5). Shorter vectors
// are many for what goes with each connection: on 4096 x 4096, batch 256, panels of 512 KiB in as much cache,
// 4 vectors of 32 bytes took 0.9 of the time of 2, and at 8,192 features, out of cache, 0.7.
//
// Afar, two lines in a row are fetched as one. Scale-free pattern of 50,000, degree 30, batch 128, one
// thread: forward 37 ms with two vectors and 44 with four, for hubs stay in the cache longer; backward 73
// and 66.
//
// Time of activations as they lie over that of panels, 4096 x 4096, batch 256, Zen 5: 10, 16 and 41
// connections a row, forward 1.05, 1.2, 1.4, both gradients 0.8, 0.8, 1.0; these at batch 64 and 12 a row
// 0.77, at batch 1024 and 20 a row 1.09.
constexpr Widths kForward{kVectorBytes < kLine ? 4 : 1, 2, 8}, kBackward{kVectorBytes < kLine ? 4 : 2, 4, 24};

// The most vectors of a panel that a cache has to hold. Where it is read in place none has to, and longer
// rows are better: 8 vectors took 0.85 of the time of 4 (4096 x 4096, 0.1 %, batch 256).
constexpr int64_t kMost = 4;

// Vectors of a panel (kernels/panels.py has the same rule) for a batch of a vector or more and as many
// features that are gathered: wide enough that an index serves many samples, and small enough for the
// second-level cache where that is possible.
//
// Half of the cache is for what streams by, but for dense patterns: they read a panel in order, and by
// blocks. Time with 4 vectors in all of the cache over that with 2 in half of it, 4096 x 4096, batch 256, Zen
// 5, forward and both gradients: 10 % 1.1, 1.0; 20 % 1.0, 0.95; 25 % 0.77, 0.92; 40 % 0.75, 0.9.
template <class A>
int64_t vectors_of_panel(int64_t batch, int64_t features, bool in_place, bool dense, Widths widths) {
  constexpr int64_t N = kLanes<A>;
  if (in_place && batch % (kMostVectors * N) == 0) return kMostVectors;
  const int64_t cache = cache_size(2), held = dense ? cache : cache / 2;
  const auto bytes = [=](int64_t vectors) { return features * vectors * kVectorBytes; };
  int64_t vectors = kMost;
  while (vectors > widths.fewest && bytes(vectors) > held) vectors /= 2;
  if (bytes(vectors) > cache) vectors = widths.far;
  const int64_t panels = ceil_div(batch, vectors * N);
  return ceil_div(ceil_div(batch, panels), N);
}

// How far ahead rows are asked for, in connections. Where they come from afar: so many, of at most so many
// bytes. Time over that of 24 connections, Zen 5, 200,000 features, 20 a row: batch 32 (rows of 128 bytes)
// forward 0.7, both gradients 0.8; batch 4 0.9, 1.0; rows of 256 bytes differ by less than noise.
constexpr int64_t kAhead = 24, kFarAhead = 64, kFarAheadBytes = 8 << 10;

template <class A, class S, class I>
Plan<A, I> plan_for(const Tensor& gathered, int64_t rows, int64_t nnz, Widths widths) {
  constexpr int64_t N = kLanes<A>, kSize = sizeof(A);
  const int64_t batch = gathered.size(0), features = gathered.size(1), cache = cache_size(2);
  // Activations may be read where they lie, if each row is read a few times only.
  const bool lies_so = std::is_same_v<A, S> && (batch == 1 || feature_major(gathered));
  const bool few_times = lies_so && nnz < widths.few_times * features;
  // Blocks of two thirds of the first-level cache. Their connections are counted in each row, N indices at
  // once, which is worth it if N indices have four of them or more.
  const bool dense = nnz * N >= 4 * rows * features;
  int64_t lanes = N, vectors = 1;
  if (batch < N) {
    for (lanes = batch <= 1 ? 1 : 4; lanes < batch;) lanes *= 2;
    lanes = std::min(lanes, N);
  } else {
    vectors = vectors_of_panel<A>(batch, features, few_times, dense, widths);
  }
  const auto loops = micro<A, I>(static_cast<int>(lanes), static_cast<int>(vectors));
  const int64_t row = loops.width * kSize, block = cache_size(1) * 2 / 3 / row;
  // A panel that is the whole batch would be copied as it is: Zen 5, feature-major, forward took 1.6 times as
  // long so at 4096 x 4096, 1 %, batch 16, and 1.0 to 1.5 times from afar (200,000 features, batch 16).
  const bool read_in_place = few_times || (lies_so && batch == loops.width);
  const int64_t gathered_from = features * (read_in_place ? batch : loops.width) * kSize;
  const bool far = gathered_from > cache;
  // Of a panel as large as the cache a part is lost to what streams by, if it is not read in order. To ask
  // for a row of one line takes as many instructions as to read it.
  const bool near = !far && !dense && gathered_from > cache / 2 && row >= 2 * kLine;
  const int64_t ahead = far ? std::min(kFarAhead, kFarAheadBytes / row) : near ? kAhead : 0;
  return {loops, read_in_place, far, ahead, dense && block < features ? block : 0};
}

template <class I>
Offsets<I> offsets_of(const Tensor& offsets) {
  return {read<I>(offsets), offsets.size(0) - 1};
}

template <class A, class I>
Sparse<A, I> sparse(const Tensor& offsets, const Tensor& index, const A* values) {
  return {read<I>(offsets), read<I>(index), values, offsets.size(0) - 1};
}

// Whether backward takes two passes, one for each gradient, where one could do. The one pass has to bring
// grad_values back to CSR order, which costs a connection as much as two or three vectors of a second pass.
//
// Time of a training step in one pass over that in two, float32, 2 threads, batch 1, 4, 16, 32, 64:
//   4096 x 4096   1 %   1.5  1.3  1.2  1.1  1.0      50,000, 30 a row    1.7  1.3  1.2  1.05  1.0
//                10 %   2.5  1.2  1.0  1.1  0.95     200,000, 20 a row   1.7  1.3  1.1  1.0
// Where there are many values, in long columns, the way back is longer. Backward in one pass over two, batch
// 48 and 64: 4096 x 4096, 5 % 1.05, 0.94; 10 % 1.12, 1.06; 20 % 1.04, 1.18; 40 % 1.6, 1.3; above 64 one pass
// is faster.
template <class A>
bool takes_two_passes(int64_t batch, int64_t connections, int64_t columns) {
  constexpr int64_t kSize = sizeof(A), kMany = 4 << 20, kLongColumn = 256;
  const bool many = connections * kSize >= kMany && connections >= kLongColumn * columns;
  return batch * kSize <= (many ? 4 : 2) * kLine;
}

// A sparse matrix as tensors: offsets of the rows and index of the columns, or the other way round.
struct Structure {
  const Tensor &offsets, &index;
  int64_t count() const {
    return offsets.size(0) - 1;
  }
  int64_t nnz() const {
    return index.size(0);
  }
};

// Whether a product multiplies the zeros of W as well (dense_vectors.h; kernels/panels.py has the same rule).
// W is written out once for all panels, so the more there are the less dense it may be; rows are whole
// vectors of samples, so there are two panels at least. Time by connections over that with zeros, 4096 x
// 4096, vectors of 8 floats, 2 threads, forward and both gradients:
//   batch   32                                      90 %: 0.76, 0.92
//           64   40 %: 0.82, 0.95   60 %: 0.89, 1.32   90 %: 1.23, 1.42
//          128   30 %: 0.73, 0.78   40 %: 1.21, 1.08   60 %: 1.18, 1.28
//          256   30 %: 0.86, 0.79   40 %: 1.09, 0.99   60 %: 1.31, 1.45   90 %: 1.58, 1.70
//         1024   30 %: 0.84, 0.65                      60 %: 1.39, 1.23
template <class A>
bool multiplies_zeros(const Tensor& gathered, const Structure& w) {
  constexpr double kDense = 0.4;
  constexpr int64_t kFewestRows = 32, kFewestPanels = 2;
  const int64_t batch = gathered.size(0), panels = ceil_div(batch, kDenseWidth<A>);
  const double entries = static_cast<double>(w.count()) * gathered.size(1);
  return batch >= kFewestPanels * kDenseWidth<A> && w.count() >= kFewestRows &&
         w.nnz() * panels > kDense * (panels + 1) * entries;
}

template <class S, class I>
void run_spmm(const Structure& w, const Tensor& values, const I* order, const Tensor& input, const S* bias,
              const Tensor& output) {
  using A = Accumulator<S>;
  const Ordered<A, S, I> ordered(offsets_of<I>(w.offsets), read<S>(values), order);
  const auto rows = sparse<A, I>(w.offsets, w.index, ordered.data());
  if (multiplies_zeros<A>(input, w) && spmm_with_zeros(rows, to_read<S>(input), bias, to_write<S>(output)))
    return;
  spmm(plan_for<A, S, I>(input, w.count(), w.nnz(), kForward), rows, to_read<S>(input), bias,
       to_write<S>(output));
}

// By the rows of W.
template <class S, class I>
void run_scatter(const Structure& rows, const Tensor& values, const Tensor& grad_output,
                 const Tensor& grad_input) {
  using A = Accumulator<S>;
  const Ordered<A, S, I> summed(offsets_of<I>(rows.offsets), read<S>(values), nullptr);
  scatter(plan_for<A, S, I>(grad_output, grad_input.size(1), rows.nnz(), kForward),
          sparse<A, I>(rows.offsets, rows.index, summed.data()), to_read<S>(grad_output),
          to_write<S>(grad_input));
}

// Over the rows of W, with grad_output and input in each other's place: what is gathered is the input, and
// the results come in CSR order.
template <class S, class I>
void run_sddmm(const Structure& rows, const Tensor& grad_output, const Tensor& input,
               const Tensor& grad_values) {
  using A = Accumulator<S>;
  S* to = static_cast<S*>(grad_values.mutable_data_ptr());
  const auto gathered = to_read<S>(input), own = to_read<S>(grad_output);
  if (input.size(0) == 1)
    return outer<A>(read<I>(rows.offsets), read<I>(rows.index), own, gathered, rows.nnz(), to);
  const Dots<A, S, I> dots(offsets_of<I>(rows.offsets), nullptr, to);
  const auto w = sparse<A, I>(rows.offsets, rows.index, static_cast<const A*>(nullptr));
  if (multiplies_zeros<A>(input, rows))
    sddmm_with_zeros(w, own, gathered, dots.data());
  else
    backward(plan_for<A, S, I>(input, rows.count(), rows.nnz(), kBackward), w, false, gathered, own,
             Activations<S>{}, dots.data());
  dots.deliver();
}

// Both gradients in one pass over the columns of W.
template <class S, class I>
void run_backward(const Structure& columns, const I* order, const Tensor& values, const Tensor& grad_output,
                  const Tensor& input, const Tensor& grad_input, const Tensor& grad_values) {
  using A = Accumulator<S>;
  const auto offsets = offsets_of<I>(columns.offsets);
  const Ordered<A, S, I> ordered(offsets, read<S>(values), order);
  const Dots<A, S, I> dots(offsets, order, static_cast<S*>(grad_values.mutable_data_ptr()));
  backward(plan_for<A, S, I>(grad_output, columns.count(), columns.nnz(), kBackward),
           sparse<A, I>(columns.offsets, columns.index, ordered.data()), true, to_read<S>(grad_output),
           to_read<S>(input), to_write<S>(grad_input), dots.data());
  dots.deliver();
}

Tensor spmm_operator(const Tensor& offsets, const Tensor& index, const Tensor& values,
                     const std::optional<Tensor>& permutation, const Tensor& input,
                     const std::optional<Tensor>& bias) {
  Tensor output = empty_activations(input, offsets.size(0) - 1);
  with_types(values, index, [&](auto scalar, auto integer) {
    using S = typename decltype(scalar)::type;
    using I = typename decltype(integer)::type;
    run_spmm<S, I>({offsets, index}, values, read<I>(permutation), input, read<S>(bias), output);
  });
  return output;
}

Tensor scatter_operator(const Tensor& crow_indices, const Tensor& col_indices, const Tensor& values,
                        const Tensor& grad_output, int64_t in_features) {
  Tensor grad_input = empty_activations(grad_output, in_features);
  with_types(values, col_indices, [&](auto scalar, auto integer) {
    using S = typename decltype(scalar)::type;
    using I = typename decltype(integer)::type;
    run_scatter<S, I>({crow_indices, col_indices}, values, grad_output, grad_input);
  });
  return grad_input;
}

Tensor sddmm_operator(const Tensor& crow_indices, const Tensor& col_indices, const Tensor& grad_output,
                      const Tensor& input) {
  Tensor grad_values = empty(input, {col_indices.size(0)});
  with_types(input, col_indices, [&](auto scalar, auto integer) {
    using S = typename decltype(scalar)::type;
    using I = typename decltype(integer)::type;
    run_sddmm<S, I>({crow_indices, col_indices}, grad_output, input, grad_values);
  });
  return grad_values;
}

// Without the columns of W grad_input is summed up by its rows.
std::tuple<Tensor, Tensor> backward_operator(const Tensor& crow_indices, const Tensor& col_indices,
                                             const std::optional<Tensor>& ccol_indices,
                                             const std::optional<Tensor>& row_indices,
                                             const std::optional<Tensor>& permutation, const Tensor& values,
                                             const Tensor& grad_output, const Tensor& input) {
  const Structure rows{crow_indices, col_indices};
  Tensor grad_input = empty_activations(grad_output, input.size(1));
  Tensor grad_values = empty(input, {rows.nnz()});
  with_types(values, col_indices, [&](auto scalar, auto integer) {
    using S = typename decltype(scalar)::type;
    using I = typename decltype(integer)::type;
    using A = Accumulator<S>;
    if (!permutation) {
      run_scatter<S, I>(rows, values, grad_output, grad_input);
      run_sddmm<S, I>(rows, grad_output, input, grad_values);
      return;
    }
    const Structure columns{*ccol_indices, *row_indices};
    const I* order = read<I>(permutation);
    if (multiplies_zeros<A>(input, rows) || takes_two_passes<A>(input.size(0), rows.nnz(), columns.count())) {
      run_spmm<S, I>(columns, values, order, grad_output, nullptr, grad_input);
      run_sddmm<S, I>(rows, grad_output, input, grad_values);
    } else {
      run_backward<S, I>(columns, order, values, grad_output, input, grad_input, grad_values);
    }
  });
  return {grad_input, grad_values};
}

}  // namespace

STABLE_TORCH_LIBRARY(sparselinear, library) {
  library.def(
      "spmm(Tensor offsets, Tensor index, Tensor values, Tensor? permutation, Tensor input, Tensor? bias)"
      " -> Tensor");
  library.def(
      "scatter(Tensor crow_indices, Tensor col_indices, Tensor values, Tensor grad_output, int in_features)"
      " -> Tensor");
  library.def("sddmm(Tensor crow_indices, Tensor col_indices, Tensor grad_output, Tensor input) -> Tensor");
  library.def(
      "backward(Tensor crow_indices, Tensor col_indices, Tensor? ccol_indices, Tensor? row_indices,"
      " Tensor? permutation, Tensor values, Tensor grad_output, Tensor input) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(sparselinear, CPU, library) {
  library.impl("spmm", TORCH_BOX(&spmm_operator));
  library.impl("scatter", TORCH_BOX(&scatter_operator));
  library.impl("sddmm", TORCH_BOX(&sddmm_operator));
  library.impl("backward", TORCH_BOX(&backward_operator));
}

}  // namespace sparselinear
