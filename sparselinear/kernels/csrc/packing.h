// Panels: activations of a slice of the batch, feature-major, (features, width), in the type of the
// sums. Packing a panel transposes batch-major activations and widens half types on the way; tiles of
// results go back the same way.
#pragma once

#include <algorithm>

#include "vector.h"

namespace sparselinear {

// (batch, features) with one of the two strides 1, in elements; of a const type where it is only read.
template <class S>
struct Activations {
  S* data;
  int64_t batch, features;
  int64_t batch_stride, feature_stride;
  bool feature_major() const {
    return batch_stride == 1;
  }
  S* at(int64_t b, int64_t f) const {
    return data + b * batch_stride + f * feature_stride;
  }
};

// Some samples from one on, `count` of them or as many as there are.
template <class S>
Activations<S> samples_of(const Activations<S>& from, int64_t first, int64_t count) {
  return {from.at(first, 0), std::min(count, from.batch - first), from.features, from.batch_stride,
          from.feature_stride};
}

// What the kernels read: row f of a panel begins at data + f * stride.
template <class A>
struct Panel {
  const A* data;
  int64_t features, stride;
  int64_t ahead;  // connections that rows are asked for ahead; 0 if all lie in the second-level cache
  const A* row(int64_t f) const {
    return data + f * stride;
  }
};

// Features that are transposed together: of each sample, lines in a row. With 32 of them, forward of 2048 x
// 2048, 1 %, batch 256, took 1.2 times as long (see unpack), with 64 1.05, and with 256 as long; Zen 5.
constexpr int64_t kBlock = 128;
// How far ahead the features to be transposed are asked for. A panel is read from as many rows as it has
// samples, more than the processor sees streams.
constexpr int64_t kFeaturesAhead = 64;
// The most vectors of a panel; and its samples.
constexpr int kMostVectors = 8;
template <class A>
constexpr int kMostWidth = kMostVectors * kLanes<A>;

// transpose_block, below; inlined, for its branches are gone where the counts are known.
template <int L, class S, class T>
__attribute__((always_inline)) inline void transpose_rows(const S* from, int64_t from_stride, int64_t read,
                                                          T* to, int64_t to_stride, int64_t written) {
  using Vec = Vector<Accumulator<S>, L>;
  Vec block[L];
#pragma GCC unroll 16
  for (int j = 0; j < L; ++j) block[j] = j < read ? load<L>(from + j * from_stride) : Vec{};
  transpose<Accumulator<S>, L>(block);
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i)
    if (i < written) store<L, T>(to + i * to_stride, block[i]);
}

// Block of L x L elements, transposed on the way: row j of `from` becomes lane j of each row of `to`. Only
// the first `read` rows of `from` are there, the others being zeros, and only the first `written` of `to`.
template <int L, class S, class T>
inline void transpose_block(const S* from, int64_t from_stride, int64_t read, T* to, int64_t to_stride,
                            int64_t written) {
  if (read == L && written == L)
    transpose_rows<L>(from, from_stride, L, to, to_stride, L);
  else
    transpose_rows<L>(from, from_stride, read, to, to_stride, written);
}

// Features first to last of `from`, samples sample to sample + count <= width: packed into rows of
// `width` at `to`, with zeros after the last sample.
template <int L, class A, class S>
void pack(const Activations<const S>& from, int64_t first, int64_t last, int64_t sample, int64_t count, A* to,
          int64_t width) {
  if (from.feature_major()) {
    for (int64_t f = first; f < last; ++f, to += width) {
      const S* row = from.at(sample, f);
      int64_t b = 0;
      for (; b + L <= count; b += L) store<L, A>(to + b, load<L>(row + b));
      for (; b < width; ++b) to[b] = b < count ? load_one(row + b) : A(0);
    }
    return;
  }
  for (int64_t begin = first; begin < last; begin += kBlock) {
    const int64_t end = std::min<int64_t>(begin + kBlock, last);
    for (int64_t b = 0; b < width; b += L) {
      const int64_t samples = std::min<int64_t>(L, count - b);
      for (int64_t f = begin; f < end; f += L) {
        const S* source = from.at(sample + b, f);
        A* target = to + (f - first) * width + b;
        if (f + L <= end) {
          for (int j = 0; j < samples; ++j)
            __builtin_prefetch(source + j * from.batch_stride + kFeaturesAhead, 0, 2);
          transpose_block<L>(source, from.batch_stride, samples, target, width, L);
          continue;
        }
        for (int64_t i = 0; f + i < end; ++i)
          for (int64_t j = 0; j < L; ++j)
            target[i * width + j] = j < samples ? load_one(source + j * from.batch_stride + i) : A(0);
      }
    }
  }
}

// Rows first to last of results, in rows of `width` at `from`, are written to samples sample to sample +
// count of `to`, in blocks of L x L.
template <int L, class A, class S>
void unpack_blocks(const A* from, int64_t width, int64_t first, int64_t last, int64_t sample, int64_t count,
                   const Activations<S>& to) {
  for (int64_t b = 0; b < count; b += L) {
    const int64_t samples = std::min<int64_t>(L, count - b);
    for (int64_t f = first; f < last; f += L) {
      const A* source = from + (f - first) * width + b;
      S* target = to.at(sample + b, f);
      if (f + L <= last) {
        transpose_block<L>(source, width, L, target, to.batch_stride, samples);
        continue;
      }
      for (int64_t j = 0; j < samples; ++j)
        for (int64_t i = 0; f + i < last; ++i)
          store_one(target + j * to.batch_stride + i, source[i * width + j]);
    }
  }
}

// The same, with the bias added. Where samples are a multiple of 4 KiB apart, their lines take turns at a few
// places of the first-level cache, 8 or 12 in each set, while a hundred stores wait for theirs. So no more
// than 8 samples are written together there, and as many lines of each as a block of features has. 4096
// features, 256 samples, Zen 5: 120 us by 16 samples and 32 features, 87 by 16 and 128, 36 by 8 and 128; at
// other distances 28 to 35. Zen 3, by 128 features: 352 us by 4 samples, 244 by 8; at other distances 344 and
// 188.
template <int L, class A, class S>
void unpack(A* from, int64_t width, int64_t first, int64_t last, int64_t sample, int64_t count, const S* bias,
            const Activations<S>& to) {
  if (bias)
    for (int64_t f = first; f < last; ++f) {
      A* row = from + (f - first) * width;
      const A b = load_one(bias + f);
      for (int64_t i = 0; i < width; i += L) store<L, A>(row + i, load<L>(row + i) + b);
    }
  if (to.feature_major()) {
    for (int64_t f = first; f < last; ++f, from += width) {
      S* row = to.at(sample, f);
      int64_t b = 0;
      for (; b + L <= count; b += L) store<L, S>(row + b, load<L>(from + b));
      for (; b < count; ++b) store_one(row + b, from[b]);
    }
    return;
  }
  constexpr int64_t kColliding = 4096;
  constexpr int kSamples = 8;
  if constexpr (L > kSamples)
    if (to.batch_stride * sizeof(S) % kColliding == 0)
      return unpack_blocks<kSamples>(from, width, first, last, sample, count, to);
  unpack_blocks<L>(from, width, first, last, sample, count, to);
}

// Asks for the lines that some results will be written to, while they are computed: a line is read before a
// part of it can be written.
template <class S>
inline void fetch_to_write(const Activations<S>& to, int64_t first, int64_t last, int64_t sample,
                           int64_t count) {
  if (to.feature_major()) return;
  for (int64_t b = sample; b < sample + count; ++b)
    for (int64_t f = first; f < last; f += kPerLine<S>) __builtin_prefetch(to.at(b, f), 1, 2);
}

// Packing and unpacking for one number of lanes.
template <class A, class S>
struct Packing {
  void (*pack)(const Activations<const S>& from, int64_t first, int64_t last, int64_t sample, int64_t count,
               A* to, int64_t width);
  void (*unpack)(A* from, int64_t width, int64_t first, int64_t last, int64_t sample, int64_t count,
                 const S* bias, const Activations<S>& to);
};

template <class A, class S>
Packing<A, S> packing(int lanes) {
  constexpr int N = kLanes<A>;
  if (lanes == 1) return {pack<1, A, S>, unpack<1, A, S>};
  if constexpr (N > 4)
    if (lanes == 4) return {pack<4, A, S>, unpack<4, A, S>};
  if constexpr (N > 8)
    if (lanes == 8) return {pack<8, A, S>, unpack<8, A, S>};
  return {pack<N, A, S>, unpack<N, A, S>};
}

}  // namespace sparselinear
