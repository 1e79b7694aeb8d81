// The two products over panels: rows of W times a panel, and the fused backward over columns of W.
#pragma once

#include "panel.h"
#include "parallel.h"
#include "scratch.h"

namespace sparselinear {

// Connections times vectors that are worth a task of their own: about 10 microseconds.
constexpr int64_t kLeastCost = 32768;

// Calls rows(first, last) for the rows that lie in the chunk as a whole, and piece(at_end, row, first, last)
// for the connections of a row that is shared with the chunk before it or after it.
template <class A, class I, class Rows, class Piece>
void walk(const Sparse<A, I>& w, const Chunk& chunk, const Rows& rows, const Piece& piece) {
  int64_t first = chunk.begin.row;
  if (chunk.begin.connection > w.offsets[first]) {
    const bool whole = chunk.end.row == first;
    piece(false, first, chunk.begin.connection, whole ? chunk.end.connection : static_cast<int64_t>(w.offsets[first + 1]));
    if (whole) return;
    ++first;
  }
  if (first < chunk.end.row) rows(first, chunk.end.row);
  if (chunk.end.row < w.rows && chunk.end.connection > w.offsets[chunk.end.row])
    piece(true, chunk.end.row, static_cast<int64_t>(w.offsets[chunk.end.row]), chunk.end.connection);
}

// Sums of the pieces of split rows, two for a chunk, added up in the order of the chunks.
template <class A>
class Pieces {
 public:
  template <class I>
  Pieces(const Sparse<A, I>& w, const std::vector<Chunk>& chunks, int64_t width) : width_(width) {
    const auto ignore = [](int64_t, int64_t) {};
    for (size_t c = 0; c < chunks.size(); ++c)
      walk(w, chunks[c], ignore, [&](bool at_end, int64_t row, int64_t, int64_t) { slots_.push_back({row, 2 * c + at_end}); });
    if (!slots_.empty()) sums_.resize(2 * chunks.size() * width_);
  }
  A* at(size_t chunk, bool at_end) {
    return sums_.data() + (2 * chunk + at_end) * width_;
  }
  // Calls done(row, sum) for each split row.
  template <class Done>
  void finish(const Done& done) {
    for (size_t s = 0; s < slots_.size();) {
      const int64_t row = slots_[s].row;
      A* sum = sums_.data() + slots_[s].slot * width_;
      for (++s; s < slots_.size() && slots_[s].row == row; ++s)
        for (int64_t i = 0; i < width_; ++i) sum[i] += sums_[slots_[s].slot * width_ + i];
      done(row, sum);
    }
  }

 private:
  struct Slot {
    int64_t row;
    size_t slot;
  };
  int64_t width_;
  std::vector<Slot> slots_;
  std::vector<A> sums_;
};

// The samples of one panel.
struct Slice {
  int64_t panel, sample, count;
};

// How a product is computed: the inner loops, and what is known of the panels they read.
template <class A, class I>
struct Plan {
  Micro<A, I> micro;
  bool in_place;  // feature-major panels are read where they are
  bool far;       // a panel does not fit in the second-level cache
  int64_t block;  // as in Panel
};

// Panels of a batch, and the two ways of sharing them among threads. Both give the same bits.
template <class A, class S>
class Panels {
 public:
  template <class I>
  Panels(const Activations<S>& from, const Packing<A, S>& packing, const Plan<A, I>& plan)
      : from_(from),
        packing_(packing),
        width_(plan.micro.width),
        far_(plan.far),
        block_(plan.block),
        count_(ceil_div(from.batch, width_)),
        packed_from_(std::is_same_v<S, A> && plan.in_place ? from.batch / width_ : 0) {}

  int64_t count() const {
    return count_;
  }

  // One panel after the other, all threads on the chunks of each; meanwhile the next is packed. Calls
  // compute(panel, slice, chunk) for each chunk, then done(slice).
  template <class Compute, class Done>
  void shared(int64_t chunks, const Compute& compute, const Done& done) const {
    const int64_t packs = ceil_div(from_.features, kFeatures), buffers = std::min<int64_t>(count_ - packed_from_, 2);
    const Scratch scratch(buffers * panel_size() * sizeof(A));
    const auto buffer = [&](int64_t p) { return scratch.as<A>() + (p - packed_from_) % 2 * panel_size(); };
    for (int64_t p = -1; p < count_; ++p) {
      const int64_t now = p < 0 ? 0 : chunks;
      const int64_t next = p + 1 < count_ && p + 1 >= packed_from_ ? packs : 0;
      for_each_task(now + next, [&](int64_t task) {
        if (task < now)
          compute(at(p, buffer(p)), slice(p), task);
        else
          pack_part(slice(p + 1), task - now, buffer(p + 1));
      });
      if (p >= 0) done(slice(p));
    }
  }

  // Each of the panels first to last is the task of one thread, that packs it and keeps it in its own cache.
  template <class Compute>
  void private_to_threads(int64_t first, int64_t last, const Compute& compute) const {
    for_each_task(last - first, [&](int64_t task) {
      const int64_t p = first + task;
      const Scratch scratch(p < packed_from_ ? 0 : panel_size() * sizeof(A));
      if (p >= packed_from_) packing_.pack(from_, 0, from_.features, slice(p).sample, slice(p).count, scratch.as<A>(), width_);
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
      if (p < packed_from_) return {from_.at(p * width_, 0), from_.features, from_.feature_stride, far_, block_};
    return {packed, from_.features, width_, far_, block_};
  }
  void pack_part(const Slice& slice, int64_t part, A* to) const {
    const int64_t first = part * kFeatures, last = std::min(first + kFeatures, from_.features);
    packing_.pack(from_, first, last, slice.sample, slice.count, to + first * width_, width_);
  }

  Activations<S> from_;
  Packing<A, S> packing_;
  int64_t width_;
  bool far_;
  int64_t block_;
  int64_t count_;
  int64_t packed_from_;  // the last panel is packed where it is not full: no vector may reach beyond the batch
};

// Whether there are panels enough to give each thread its own.
inline bool enough_panels(int64_t panels) {
  const int64_t threads = torch::stable::get_num_threads();
  return 4 * panels >= 3 * threads * ceil_div(panels, threads);  // 3/4 of the threads busy
}

template <class A, class S, class I>
void spmm(const Plan<A, I>& plan, const Sparse<A, I>& w, const Activations<S>& input, const S* bias,
          const Activations<S>& output) {
  const auto packing = sparselinear::packing<A, S>(plan.micro.lanes);
  const int64_t width = plan.micro.width;
  const auto chunks = cut(w, kLeastCost / ceil_div(width, kLanes<A>));
  const auto compute = [&](const Panel<A>& panel, const Slice& slice, int64_t chunk, Pieces<A>& pieces) {
    const auto rows = [&](int64_t first, int64_t last) {
      alignas(64) A tile[kBlock * kMostWidth];
      for (int64_t stop; first < last; first = stop) {
        stop = std::min(last, (first / kBlock + 1) * kBlock);
        plan.micro.multiply(panel, w, {w.offsets + first, stop - first}, tile);
        packing.unpack(tile, width, first, stop, slice.sample, slice.count, bias, output);
      }
    };
    walk(w, chunks[chunk], rows, [&](bool at_end, int64_t, int64_t first, int64_t last) {
      const I ends[] = {static_cast<I>(first), static_cast<I>(last)};
      plan.micro.multiply(panel, w, {ends, 1}, pieces.at(chunk, at_end));
    });
  };
  const auto finish = [&](const Slice& slice, Pieces<A>& pieces) {
    pieces.finish([&](int64_t row, A* sum) {
      packing.unpack(sum, width, row, row + 1, slice.sample, slice.count, bias, output);
    });
  };
  const Panels<A, S> panels(input, packing, plan);
  if (enough_panels(panels.count())) {
    panels.private_to_threads(0, panels.count(), [&](const Panel<A>& panel, const Slice& slice) {
      Pieces<A> pieces(w, chunks, width);
      for (size_t chunk = 0; chunk < chunks.size(); ++chunk) compute(panel, slice, chunk, pieces);
      finish(slice, pieces);
    });
  } else {
    Pieces<A> pieces(w, chunks, width);
    panels.shared(
        chunks.size(),
        [&](const Panel<A>& panel, const Slice& slice, int64_t chunk) { compute(panel, slice, chunk, pieces); },
        [&](const Slice& slice) { finish(slice, pieces); });
  }
}

// w holds columns of W as compressed rows; grad_values come in their order. Without `sum` there is no
// grad_input, and w needs no values.
template <class A, class S, class I>
void backward(const Plan<A, I>& plan, const Sparse<A, I>& w, bool sum, const Activations<S>& grad_output,
              const Activations<S>& input, const Activations<S>& grad_input, A* grad_values) {
  const auto packing = sparselinear::packing<A, S>(plan.micro.lanes);
  const int64_t width = plan.micro.width, nnz = w.nnz();
  const auto loop = sum ? plan.micro.multiply_and_dot : plan.micro.dot;
  const auto chunks = cut(w, kLeastCost / 2 / ceil_div(width, kLanes<A>));
  // Dot products are added to those of the panels before, or begin anew, in `dots`.
  const auto compute = [&](const Panel<A>& panel, const Slice& slice, int64_t chunk, Pieces<A>& pieces, bool add, A* dots) {
    alignas(64) A x[kBlock * kMostWidth], tile[kBlock * kMostWidth];
    const auto rows = [&](int64_t first, int64_t last) {
      for (int64_t stop; first < last; first = stop) {
        stop = std::min(last, (first / kBlock + 1) * kBlock);
        packing.pack(input, first, stop, slice.sample, slice.count, x, width);
        loop(panel, w, {w.offsets + first, stop - first}, x, add, tile, dots);
        if (sum) packing.unpack(tile, width, first, stop, slice.sample, slice.count, nullptr, grad_input);
      }
    };
    walk(w, chunks[chunk], rows, [&](bool at_end, int64_t row, int64_t first, int64_t last) {
      const I ends[] = {static_cast<I>(first), static_cast<I>(last)};
      packing.pack(input, row, row + 1, slice.sample, slice.count, x, width);
      loop(panel, w, {ends, 1}, x, add, pieces.at(chunk, at_end), dots);
    });
  };
  const auto finish = [&](const Slice& slice, Pieces<A>& pieces) {
    if (sum)
      pieces.finish([&](int64_t row, A* total) {
        packing.unpack(total, width, row, row + 1, slice.sample, slice.count, nullptr, grad_input);
      });
  };
  const Panels<A, S> panels(grad_output, packing, plan);
  if (panels.count() == 0) std::fill(grad_values, grad_values + nnz, A(0));
  // Threads with panels of their own need dot products of their own: a wave of panels, with no more dot
  // products than there are activations.
  const int64_t most = input.batch * input.features / std::max<int64_t>(nnz, 1);
  const int64_t threads = torch::stable::get_num_threads(), wave = std::min(most / threads * threads, panels.count());
  if (panels.count() > 1 && wave > 0 && enough_panels(panels.count())) {
    const Scratch scratch(wave * nnz * sizeof(A));
    for (int64_t first = 0; first < panels.count(); first += wave) {
      const int64_t last = std::min(first + wave, panels.count());
      panels.private_to_threads(first, last, [&](const Panel<A>& panel, const Slice& slice) {
        Pieces<A> pieces(w, chunks, width);
        A* dots = scratch.as<A>() + (slice.panel - first) * nnz;
        for (size_t chunk = 0; chunk < chunks.size(); ++chunk) compute(panel, slice, chunk, pieces, false, dots);
        finish(slice, pieces);
      });
      torch::stable::parallel_for(0, nnz, 1 << 14, [&](int64_t begin, int64_t end) {
        for (int64_t p = first; p < last; ++p) {
          const A* dots = scratch.as<A>() + (p - first) * nnz;
          if (p == 0)
            std::copy(dots + begin, dots + end, grad_values + begin);
          else
            for (int64_t k = begin; k < end; ++k) grad_values[k] += dots[k];
        }
      });
    }
  } else {
    Pieces<A> pieces(w, chunks, width);
    panels.shared(
        chunks.size(),
        [&](const Panel<A>& panel, const Slice& slice, int64_t chunk) {
          compute(panel, slice, chunk, pieces, slice.panel > 0, grad_values);
        },
        [&](const Slice& slice) { finish(slice, pieces); });
  }
}

}  // namespace sparselinear
