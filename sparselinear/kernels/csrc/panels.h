// The panels of a batch, and the ways of sharing them among threads.
#pragma once

#include "micro.h"
#include "parallel.h"
#include "scratch.h"

namespace sparselinear {

// The samples of one panel.
struct Slice {
  int64_t panel, sample, count;
};

// How a product is computed: the inner loops, and what is known of the panels they read.
template <class A>
struct Plan {
  Micro<A> micro;
  bool in_place;  // panels of activations in the type of the sums are read where they are
  bool far;       // what panels are read from does not fit in the second-level cache
  int64_t ahead;  // as in Panel
};

// The panels that activations are packed into. All ways of sharing them give the same bits.
template <class A, class S>
class Panels {
 public:
  Panels(const Activations<const S>& from, const Packing<A, S>& packing, const Plan<A>& plan)
      : from_(from),
        packing_(packing),
        width_(plan.micro.width),
        far_(plan.far),
        ahead_(plan.ahead),
        count_(ceil_div(from.batch, width_)),
        packed_from_(plan.in_place ? from.batch / width_ : 0) {}

  int64_t count() const {
    return count_;
  }
  // Whether there are panels enough to keep three quarters of the threads busy with their own; those that do
  // not fit in its cache are better shared.
  bool enough_for_threads() const {
    const int64_t threads = thread_count();
    return !far_ && 4 * count_ >= 3 * threads * ceil_div(count_, threads);
  }

  // Whether every panel is read where it is.
  bool in_place() const {
    return packed_from_ == count_;
  }

  // One chunk after the other, each thread with chunks of its own, and all panels of a chunk in a row: for
  // panels in place, whose rows lie side by side in both input and result. Calls compute(panel, slice, chunk)
  // for each chunk of each panel, then done(slice) for each panel.
  template <class Compute, class Done>
  void by_chunks(int64_t chunks, const Compute& compute, const Done& done) const {
    for_each_task(chunks, [&](int64_t chunk) {
      for (int64_t p = 0; p < count_; ++p) compute(at(p, nullptr), slice(p), chunk);
    });
    for (int64_t p = 0; p < count_; ++p) done(slice(p));
  }

  // One panel after the other, all threads on the chunks of each. Calls compute(panel, slice, chunk) for each
  // chunk, then done(slice).
  template <class Compute, class Done>
  void shared(int64_t chunks, const Compute& compute, const Done& done) const {
    const Scratch scratch(packed_from_ < count_ ? panel_size() * sizeof(A) : 0);
    for (int64_t p = 0; p < count_; ++p) {
      if (p >= packed_from_)
        for_each_task(ceil_div(from_.features, kFeatures), [&](int64_t part) {
          const int64_t first = part * kFeatures, last = std::min(first + kFeatures, from_.features);
          pack(slice(p), first, last, scratch.as<A>() + first * width_);
        });
      for_each_task(chunks, [&](int64_t chunk) { compute(at(p, scratch.as<A>()), slice(p), chunk); });
      done(slice(p));
    }
  }

  // Each of the panels first to last is the task of one thread, that packs it and keeps it in its own cache.
  template <class Compute>
  void private_to_threads(int64_t first, int64_t last, const Compute& compute) const {
    for_each_task(last - first, [&](int64_t task) {
      const int64_t p = first + task;
      const Scratch scratch(p < packed_from_ ? 0 : panel_size() * sizeof(A));
      if (p >= packed_from_) pack(slice(p), 0, from_.features, scratch.as<A>());
      compute(at(p, scratch.as<A>()), slice(p));
    });
  }

 private:
  static constexpr int64_t kFeatures = 256;  // that one task packs
  int64_t panel_size() const {
    return from_.features * width_;
  }
  Slice slice(int64_t p) const {
    return {p, p * width_, std::min<int64_t>(width_, from_.batch - p * width_)};
  }
  Panel<A> at(int64_t p, const A* packed) const {
    if constexpr (std::is_same_v<S, A>)
      if (p < packed_from_) return {from_.at(p * width_, 0), from_.features, from_.feature_stride, ahead_};
    return {packed, from_.features, width_, ahead_};
  }
  void pack(const Slice& slice, int64_t first, int64_t last, A* to) const {
    packing_.pack(from_, first, last, slice.sample, slice.count, to, width_);
  }

  Activations<const S> from_;
  Packing<A, S> packing_;
  int64_t width_;
  bool far_;
  int64_t ahead_;
  int64_t count_;
  // The last panel is packed where it is not full: no vector may reach beyond the batch.
  int64_t packed_from_;
};

}  // namespace sparselinear
