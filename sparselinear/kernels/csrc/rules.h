// How a product is run, by rule: the width of its panels and where they are read from, whether backward takes
// one pass or two, and whether the zeros of W are multiplied as well. kernels/panels.py has the same rules.
#pragma once

#include <unistd.h>

#include "dense_vectors.h"
#include "panels.h"
#include "tensors.h"

namespace sparselinear {

// Bytes of the second-level cache of a core.
inline int64_t cache_size() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const int64_t size = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (size > 0) return size;
#endif
  return 1 << 20;
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
// second-level cache where that is possible. Half of the cache is for what streams by.
template <class A>
int64_t vectors_of_panel(int64_t batch, int64_t features, bool in_place, Widths widths) {
  constexpr int64_t N = kLanes<A>;
  if (in_place && batch % (kMostVectors * N) == 0) return kMostVectors;
  const int64_t cache = cache_size();
  const auto bytes = [=](int64_t vectors) { return features * vectors * kVectorBytes; };
  int64_t vectors = kMost;
  while (vectors > widths.fewest && bytes(vectors) > cache / 2) vectors /= 2;
  if (bytes(vectors) > cache) vectors = widths.far;
  const int64_t panels = ceil_div(batch, vectors * N);
  return ceil_div(ceil_div(batch, panels), N);
}

// How far ahead rows are asked for, in connections. Where they come from afar: so many, of at most so many
// bytes. Time over that of 24 connections, Zen 5, 200,000 features, 20 a row: batch 32 (rows of 128 bytes)
// forward 0.7, both gradients 0.8; batch 4 0.9, 1.0; rows of 256 bytes differ by less than noise.
constexpr int64_t kAhead = 24, kFarAhead = 64, kFarAheadBytes = 8 << 10;

template <class A, class S, class I>
Plan<A, I> plan_for(const Tensor& gathered, int64_t nnz, Widths widths) {
  constexpr int64_t N = kLanes<A>, kSize = sizeof(A);
  const int64_t batch = gathered.size(0), features = gathered.size(1), cache = cache_size();
  // Activations may be read where they lie, if each row is read a few times only; the numbers of a single
  // sample, if they lie side by side.
  const bool lies_so =
      std::is_same_v<A, S> && (batch == 1 ? gathered.stride(1) == 1 : feature_major(gathered));
  const bool few_times = lies_so && nnz < widths.few_times * features;
  int64_t lanes = N, vectors = 1;
  if (batch < N) {
    for (lanes = batch <= 1 ? 1 : 4; lanes < batch;) lanes *= 2;
    lanes = std::min(lanes, N);
  } else {
    vectors = vectors_of_panel<A>(batch, features, few_times, widths);
  }
  const auto loops = micro<A, I>(static_cast<int>(lanes), static_cast<int>(vectors));
  const int64_t row = loops.width * kSize;
  // A panel that is the whole batch would be copied as it is: Zen 5, feature-major, forward took 1.6 times as
  // long so at 4096 x 4096, 1 %, batch 16, and 1.0 to 1.5 times from afar (200,000 features, batch 16).
  const bool read_in_place = few_times || (lies_so && batch == loops.width);
  const int64_t gathered_from = features * (read_in_place ? batch : loops.width) * kSize;
  const bool far = gathered_from > cache;
  // Of a panel as large as the cache a part is lost to what streams by, if it is not read in order. To ask
  // for a row of one line takes as many instructions as to read it.
  const bool near = !far && gathered_from > cache / 2 && row >= 2 * kLine;
  const int64_t ahead = far ? std::min(kFarAhead, kFarAheadBytes / row) : near ? kAhead : 0;
  return {loops, read_in_place, far, ahead};
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

}  // namespace sparselinear
