// How a product is run, by rule: the width of its panels and where they are read from, whether backward takes
// one pass or two, and whether the zeros of W are multiplied as well. kernels/panels.py has the same rules.
#pragma once

#include <unistd.h>

#include "dense_vectors.h"
#include "panels.h"

namespace sparselinear {

// Bytes of the second-level cache of a core.
inline int64_t cache_size() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const int64_t size = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (size > 0) return size;
#endif
  return 1 << 20;
}

// Vectors of a panel: the fewest where a second-level cache holds it, and those where none does. How often
// the rows of feature-major activations are read at most, in the mean, if they are not copied into panels for
// it. And whether each connection yields a dot product.
struct Widths {
  int64_t fewest, far, few_times;
  bool dots;
};

// Where a vector is a line, one is enough for forward; in backward, where each panel costs a pass over the
// dots, two took 0.78 and 0.92 of the time (8,192 features, 0.2 and 2 %, batch 256, Zen 5). Shorter vectors
// are many for what goes with each connection: on 4096 x 4096, batch 256, panels of 512 KiB in as much cache,
// 4 vectors of 32 bytes took 0.9 of the time of 2, and at 8,192 features, out of cache, 0.7.
//
// Afar, two lines in a row are fetched as one. Scale-free pattern of 50,000, degree 30, batch 128, one
// thread: forward 37 ms with two vectors and 44 with four, for hubs stay in the cache longer; backward 73
// and 66.
constexpr Widths kForward{kVectorBytes < kLine ? 4 : 1, 2, 8, false},
    kBackward{kVectorBytes < kLine ? 4 : 2, 4, 24, true};

// The most vectors of a panel that a cache has to hold.
constexpr int64_t kMost = 4;

// Second-level caches in activations that are near enough to be read at random as they lie: what the last
// level holds on most machines.
constexpr int64_t kManyCaches = 16;

// Vectors of a panel (kernels/panels.py has the same rule) for a batch of a vector or more and as many
// features that are gathered: wide enough that an index serves many samples, and small enough for the
// second-level cache where that is possible. Half of the cache is for what streams by.
//
// Where rows are read kVeryManyTimes, what goes with a connection costs more than lines that get lost: panels
// of two vectors may take all of the cache. Time of forward in one over that in two, batch 64 and 256, Zen 5:
// 8192 features, read 80 times 0.9, 0.9, 250 times 1.0, 1.1, 410 times 1.3, 1.3, 820 times 1.35, 1.35, and in
// 1024 rows of W 1.4, 1.4; 5000 features, 500 times 1.25, 1.25; where they take twice the cache, 16,384
// features, 330 times 1.2, 1.2, but in 2048 rows of W, 200 times, 0.9, 0.9.
//
// Vectors shorter than a line, forward: where the cache does not hold kMost of them, there are as many still
// if rows are read kManyTimes, or if it does not hold two either and kSeveralCaches do hold the panel. Time
// in two vectors over that in four, batch 32, 64 and 256, Zen 3:
//    6000 features, 300 a row 1.6, 1.7, 1.6           12,000, 100 a row   1.25, 1.1, 1.1
//    7000, 80                 1.05, 1.2, 1.0          20,000, 20          1.3, 1.3, 1.15
//    7000, 40                 0.94, 0.85, 0.8         20,000, 5           1.07, 1.0, 1.0
//    8192, 400                1.4, 1.3, 1.5           32,000, 8           0.97, 0.9, 1.05
//    8192, 80                 1.2, 1.2, 1.04          40,000, 150         1.15, 1.14, 1.17
//    8192, 20                 0.97, 0.86, 0.67        65,000, 100         0.95, 0.95, 0.7 (batch 128)
//
// A batch that takes a vector more than all that has one panel, and not two that are half empty, where the
// cache holds it and each row is read kManyTimes, or where it holds none. Time of two over one, batch 40 and
// 48, forward and both gradients, Zen 5: 4096 features, read 12 times 0.6, 0.95, 41 times 0.9, 1.1, 80 times
// 1.1, 1.2, 200 times 1.2, 1.2, 820 times 1.4, 1.3; 20,000 to 200,000 features 1.2 to 1.45, 1.0 to 1.1.
template <class A>
int64_t vectors_of_panel(int64_t batch, int64_t features, int64_t nnz, Widths widths) {
  constexpr int64_t N = kLanes<A>, kManyTimes = 64, kVeryManyTimes = 256, kSeveralCaches = 12;
  const int64_t cache = cache_size();
  const auto bytes = [=](int64_t vectors) { return features * vectors * kVectorBytes; };
  const bool pairs = bytes(2) <= cache && nnz >= kVeryManyTimes * features;
  const int64_t fewest = std::max<int64_t>(widths.fewest, pairs ? 2 : 1);
  int64_t vectors = kMost;
  while (vectors > fewest && bytes(vectors) > cache / 2) vectors /= 2;
  const bool far = bytes(vectors) > cache;
  const bool wide = kVectorBytes < kLine && (bytes(2) <= cache ? nnz >= kManyTimes * features
                                                               : bytes(kMost) <= kSeveralCaches * cache);
  if (far && !wide) vectors = widths.far;
  const bool one = far || (bytes(vectors + 1) <= cache && nnz >= kManyTimes * features);
  if (one && vectors < kMost && ceil_div(batch, N) == vectors + 1) return vectors + 1;
  const int64_t panels = ceil_div(batch, vectors * N);
  return ceil_div(ceil_div(batch, panels), N);
}

// Vectors of the rows of feature-major activations that are read where they lie, and not copied into panels;
// none if they are. No cache has to hold those, and longer rows are better: the widest loops that the batch
// is a multiple of. Four vectors of 8 floats took over eight of them, batch 64, 128 and 192, Zen 3, forward
// and both gradients: 4096 x 4096, 4 a row 1.4, 1.25, 1.2 and 1.3, 1.05, 1.1; 2048 x 2048, 6 a row 1.3, 1.2,
// 1.2 and 1.2, 1.0, 1.1. Time of copies over rows in place, Zen 5 if no other is named:
// - One row is the whole batch, of up to kMost vectors. 4096 x 4096, batch 48, 64: 0.3 % 2.0, 1.7 and 1.5,
//   1.3; 1 % 1.4, 1.2 and 1.9, 1.6; 10 % 1.5, 1.15 and 1.3, 1.1; 30 %, where copied rows go side by side,
//   1.0, 0.76 and 1.1, 0.9. 8,192 features, 5 %, batch 32 1.3, 1.1. Of kMostVectors, in the second-level
//   cache: 1024 features, batch 128, 3 and 10 % 1.3, 1.3 and 1.7, 1.3; beyond it, 4096 features, 1 to 10 %,
//   0.9 to 1.1.
// - Each row is read a few times. 4096 x 4096, batch 256, 10, 16 and 41 times: forward 0.95, 0.83, 0.7, both
//   gradients 1.25, 1.25, 1.0; these at batch 64 and 12 times 1.3, at batch 1024 and 20 times 0.92.
// - A cache holds no panel of two vectors, and the batch is not much larger than it. Forward, batch 128:
//   6,000 features, 12 times 1.6, 60 times 1.04; 12,000, 36 times 1.6; 16,384, 33 and 82 times 1.8, 1.3;
//   30,000, 30 and 120 times 1.45, 1.05. Batch 256: 16,384, 33 times 1.25, 82 times 0.8; 100,000, 30 times
//   0.8. Where vectors are shorter than a line and it holds no panel of kMost, fewer times; batch 64, 128 and
//   256, Zen 3: 4096 features, 12 times 1.5, 1.45, 1.45, 41 times 1.2, 0.95, 0.95; 2500, 20 times 1.5, 1.2,
//   0.94, 60 times 1.3, 1.0, 1.05; 3000, 100 times 0.92, 1.0, 1.0.
template <class A>
int64_t vectors_in_place(int64_t batch, int64_t features, const Structure& w, Widths widths) {
  constexpr double kDensest = 0.2;
  constexpr int64_t kFewSamples = 12800, kFewer = 4096;
  const int64_t cache = cache_size(), bytes = features * batch * static_cast<int64_t>(sizeof(A));
  int64_t vectors = kMostVectors;
  while (vectors && batch % (vectors * kLanes<A>)) vectors = std::min(vectors - 1, kMost);
  const bool whole = vectors && batch == vectors * kLanes<A> && (vectors <= kMost || bytes <= cache);
  if (whole && w.nnz() < kDensest * static_cast<double>(w.rows) * features) return vectors;
  const auto held = [=](int64_t panel) { return features * panel * kVectorBytes <= cache / 2; };
  const int64_t few_samples = !held(2) ? kFewSamples : kVectorBytes < kLine && !held(kMost) ? kFewer : 0;
  const bool few_times =
      w.nnz() < widths.few_times * features ||
      (!widths.dots && bytes <= kManyCaches * cache && w.nnz() * batch < few_samples * features);
  if (!few_times) return 0;
  return vectors > 2 ? vectors : vectors_of_panel<A>(batch, features, w.nnz(), widths);
}

// How far ahead rows are asked for, in connections. Where they come from afar: so many, of at most so many
// bytes. Time over that of 24 connections, Zen 5, 200,000 features, 20 a row: batch 32 (rows of 128 bytes)
// forward 0.7, both gradients 0.8; batch 4 0.9, 1.0; rows of 256 bytes differ by less than noise.
//
// To ask for a row of one line takes as many instructions as to read it. Where all rows take so many caches
// or less and a row of W has so many connections or more, sums of one connection do not keep the processor
// from the next ones. Time of forward with rows asked for over that without, batch-major and feature-major,
// Zen 5:
//   batch              4            8            16
//   20,000, 40 a row   (near)       (near)       1.8, 1.6
//   50,000, 30         1.15, 1.0    1.3, 1.4     1.5, 1.5
//   100,000, 16        1.25, 1.35   1.0, 1.2     1.5, 1.4
//   200,000, 20        1.1, 1.1     1.2, 1.2     1.7, 1.7
//   100,000, 5         0.63, 1.0    0.65, 1.05   0.7, 0.95
//   400,000, 20        1.0, 1.2     0.9, 1.0     0.9, 0.9
constexpr int64_t kAhead = 24, kFarAhead = 64, kFarAheadBytes = 8 << 10, kLongEnough = 12;

template <class A, class S>
Plan<A> plan_for(const Activations<S>& gathered, const Structure& w, Widths widths) {
  constexpr int64_t N = kLanes<A>, kSize = sizeof(A);
  const int64_t batch = gathered.batch, features = gathered.features, cache = cache_size();
  // Activations may be read where they lie in the type of the sums; the numbers of a single sample, if they
  // lie side by side.
  const bool lies_so =
      std::is_same_v<const A, S> && (batch == 1 ? gathered.feature_stride == 1 : gathered.feature_major());
  int64_t lanes = N, vectors = 1, in_place = 0;
  if (batch < N) {
    for (lanes = batch <= 1 ? 1 : 4; lanes < batch;) lanes *= 2;
    lanes = std::min(lanes, N);
  } else {
    if (lies_so) in_place = vectors_in_place<A>(batch, features, w, widths);
    vectors = in_place ? in_place : vectors_of_panel<A>(batch, features, w.nnz(), widths);
  }
  const auto loops = micro<A>(static_cast<int>(lanes), static_cast<int>(vectors));
  const int64_t row = loops.width * kSize;
  // A panel that is the whole batch would be copied as it is: Zen 5, feature-major, forward took 1.6 times as
  // long so at 4096 x 4096, 1 %, batch 16, and 1.0 to 1.5 times from afar (200,000 features, batch 16).
  const bool read_in_place = in_place || (lies_so && batch == loops.width);
  const int64_t gathered_from = features * (read_in_place ? batch : loops.width) * kSize;
  const bool far = gathered_from > cache;
  const bool unasked =
      row <= kLine && gathered_from <= kManyCaches * cache && w.nnz() >= kLongEnough * w.rows && !widths.dots;
  // Of a panel as large as the cache a part is lost to what streams by, if it is not read in order. Vectors
  // of a line do not wait for it: with rows asked for, forward took 1.0 to 1.2 times as long.
  const bool near = kVectorBytes < kLine && !far && gathered_from > cache / 2 && row >= 2 * kLine;
  const int64_t ahead = far && !unasked ? std::min(kFarAhead, kFarAheadBytes / row) : near ? kAhead : 0;
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
template <class A, class S>
bool multiplies_zeros(const Activations<S>& gathered, const Structure& w) {
  constexpr double kDense = 0.4;
  constexpr int64_t kFewestRows = 32, kFewestPanels = 2;
  const int64_t batch = gathered.batch, panels = ceil_div(batch, kDenseWidth<A>);
  const double entries = static_cast<double>(w.rows) * gathered.features;
  return batch >= kFewestPanels * kDenseWidth<A> && w.rows >= kFewestRows &&
         w.nnz() * panels > kDense * (panels + 1) * entries;
}

}  // namespace sparselinear
