// The two products: rows of W over panels, and the fused backward over columns of W.
#pragma once

#include "chunks.h"
#include "panels.h"

namespace sparselinear {

// Connections times vectors of a chunk: about 10 microseconds.
constexpr int64_t kChunkCost = 32768;

// The cost of a chunk, where a connection takes so many vectors; none if there are fewer samples than a
// vector has lanes, which take half as long. Chunks of panels in place are small, so that what the panels of
// a chunk have in common, lines and pages that lie in a row, is still at hand.
template <class A, class S>
int64_t chunk_cost(const Panels<A, S>& panels, int64_t vectors) {
  if (vectors == 0) return kChunkCost / 2;
  return kChunkCost / vectors / (panels.in_place() && panels.count() > 1 ? 64 : 1);
}

// All threads on the chunks of all panels. Calls compute(panel, slice, chunk, pieces), and finish(slice,
// pieces) after the chunks of a panel.
template <class A, class S, class Compute, class Finish>
void share(const Panels<A, S>& panels, const Sparse<A>& w, const std::vector<Chunk>& chunks, int64_t width,
           const Compute& compute, const Finish& finish) {
  // Panels in place are under way together, others one after the other.
  std::vector<Pieces<A>> pieces(panels.in_place() ? panels.count() : 1, Pieces<A>(w, chunks, width));
  const auto of = [&](const Slice& slice) -> Pieces<A>& {
    return pieces[panels.in_place() ? slice.panel : 0];
  };
  const auto each = [&](const Panel<A>& panel, const Slice& slice, int64_t chunk) {
    compute(panel, slice, chunk, of(slice));
  };
  const auto done = [&](const Slice& slice) { finish(slice, of(slice)); };
  if (panels.in_place())
    panels.by_chunks(chunks.size(), each, done);
  else
    panels.shared(chunks.size(), each, done);
}

// Whether the numbers of a slice lie in `activations` as the loops read and write them, so that none go by
// way of a tile.
template <class A, class S>
bool in_rows(const Activations<S>& activations, const Slice& slice, int64_t width) {
  return std::is_same_v<std::remove_const_t<S>, A> && activations.feature_major() && slice.count == width;
}

// Their rows from `first` on.
template <class A, class S>
Rows<A> rows_of(const Activations<S>& activations, const Slice& slice, int64_t first) {
  if constexpr (std::is_convertible_v<S*, A*>)
    return {activations.at(slice.sample, first), activations.feature_stride};
  else
    return {};
}

template <class A, class S>
void spmm(const Plan<A>& plan, const Sparse<A>& w, const Activations<const S>& input, const S* bias,
          const Activations<S>& output) {
  const auto packing = sparselinear::packing<A, S>(plan.micro.lanes);
  const int64_t width = plan.micro.width;
  const Panels<A, S> panels(input, packing, plan);
  const auto chunks = cut(w, chunk_cost(panels, width / kLanes<A>));
  const auto compute = [&](const Panel<A>& panel, const Slice& slice, int64_t chunk, Pieces<A>& pieces) {
    const auto rows = [&](int64_t first, int64_t last) {
      alignas(64) A tile[kBlock * kMostWidth<A>];
      for (int64_t stop; first < last; first = stop) {
        stop = std::min(last, (first / kBlock + 1) * kBlock);
        const Span span{w.offsets + first, stop - first};
        if (!bias && in_rows<A>(output, slice, width)) {
          plan.micro.multiply(panel, w, span, rows_of<A>(output, slice, first));
          continue;
        }
        fetch_to_write(output, first, stop, slice.sample, slice.count);
        plan.micro.multiply(panel, w, span, {tile, width});
        packing.unpack(tile, width, first, stop, slice.sample, slice.count, bias, output);
      }
    };
    walk(w, chunks[chunk], rows, [&](bool at_end, int64_t, int64_t first, int64_t last) {
      const Index ends[] = {static_cast<Index>(first), static_cast<Index>(last)};
      plan.micro.multiply(panel, w, {ends, 1}, {pieces.at(chunk, at_end), width});
    });
  };
  const auto finish = [&](const Slice& slice, Pieces<A>& pieces) {
    pieces.finish([&](int64_t row, A* sum) {
      packing.unpack(sum, width, row, row + 1, slice.sample, slice.count, bias, output);
    });
  };
  if (panels.in_place() || !panels.enough_for_threads())
    return share(panels, w, chunks, width, compute, finish);
  panels.private_to_threads(0, panels.count(), [&](const Panel<A>& panel, const Slice& slice) {
    Pieces<A> pieces(w, chunks, width);
    for (size_t chunk = 0; chunk < chunks.size(); ++chunk) compute(panel, slice, chunk, pieces);
    finish(slice, pieces);
  });
}

// w holds columns of W as compressed rows; grad_values come in their order. Without `sum` there is no
// grad_input, and w needs no values; it may then hold rows of W, with grad_output and input exchanged.
template <class A, class S>
void backward(const Plan<A>& plan, const Sparse<A>& w, bool sum, const Activations<const S>& grad_output,
              const Activations<const S>& input, const Activations<S>& grad_input, A* grad_values) {
  const auto packing = sparselinear::packing<A, S>(plan.micro.lanes);
  const int64_t width = plan.micro.width, nnz = w.nnz();
  const auto loop = sum ? plan.micro.multiply_and_dot : plan.micro.dot;
  const Panels<A, S> panels(grad_output, packing, plan);
  const auto chunks = cut(w, chunk_cost(panels, 2 * width / kLanes<A>));
  // Dot products are added to those of the panels before, or begin anew, in `dots`.
  const auto compute = [&](const Panel<A>& panel, const Slice& slice, int64_t chunk, Pieces<A>& pieces,
                           bool add, A* dots) {
    alignas(64) A x[kBlock * kMostWidth<A>], tile[kBlock * kMostWidth<A>];
    const auto rows = [&](int64_t first, int64_t last) {
      for (int64_t stop; first < last; first = stop) {
        stop = std::min(last, (first / kBlock + 1) * kBlock);
        Rows<const A> own{x, width};
        Rows<A> sums{tile, width};
        const bool packed = !in_rows<A>(input, slice, width),
                   unpacked = sum && !in_rows<A>(grad_input, slice, width);
        if (packed)
          packing.pack(input, first, stop, slice.sample, slice.count, x, width);
        else
          own = rows_of<const A>(input, slice, first);
        if (sum && !unpacked) sums = rows_of<A>(grad_input, slice, first);
        if (unpacked) fetch_to_write(grad_input, first, stop, slice.sample, slice.count);
        loop(panel, w, {w.offsets + first, stop - first}, own, add, sums, dots);
        if (unpacked)
          packing.unpack(tile, width, first, stop, slice.sample, slice.count, nullptr, grad_input);
      }
    };
    walk(w, chunks[chunk], rows, [&](bool at_end, int64_t row, int64_t first, int64_t last) {
      const Index ends[] = {static_cast<Index>(first), static_cast<Index>(last)};
      packing.pack(input, row, row + 1, slice.sample, slice.count, x, width);
      loop(panel, w, {ends, 1}, {x, width}, add, {pieces.at(chunk, at_end), width}, dots);
    });
  };
  const auto finish = [&](const Slice& slice, Pieces<A>& pieces) {
    if (sum)
      pieces.finish([&](int64_t row, A* total) {
        packing.unpack(total, width, row, row + 1, slice.sample, slice.count, nullptr, grad_input);
      });
  };
  if (panels.count() == 0) std::fill(grad_values, grad_values + nnz, A(0));
  // Threads with panels of their own need dot products of their own: a wave of panels, with no more dot
  // products than there are activations.
  const int64_t most = input.batch * input.features / std::max<int64_t>(nnz, 1);
  const int64_t threads = thread_count(), wave = std::min(most / threads * threads, panels.count());
  if (panels.in_place() || panels.count() == 1 || wave == 0 || !panels.enough_for_threads())
    return share(
        panels, w, chunks, width,
        [&](const Panel<A>& panel, const Slice& slice, int64_t chunk, Pieces<A>& pieces) {
          compute(panel, slice, chunk, pieces, slice.panel > 0, grad_values);
        },
        finish);
  const Scratch scratch(wave * nnz * sizeof(A));
  for (int64_t first = 0; first < panels.count(); first += wave) {
    const int64_t last = std::min(first + wave, panels.count());
    panels.private_to_threads(first, last, [&](const Panel<A>& panel, const Slice& slice) {
      Pieces<A> pieces(w, chunks, width);
      A* dots = scratch.as<A>() + (slice.panel - first) * nnz;
      for (size_t chunk = 0; chunk < chunks.size(); ++chunk)
        compute(panel, slice, chunk, pieces, false, dots);
      finish(slice, pieces);
    });
    parallel_for(nnz, 1 << 14, [&](int64_t begin, int64_t end) {
      for (int64_t p = first; p < last; ++p) {
        const A* dots = scratch.as<A>() + (p - first) * nnz;
        if (p == 0)
          std::copy(dots + begin, dots + end, grad_values + begin);
        else
          for (int64_t k = begin; k < end; ++k) grad_values[k] += dots[k];
      }
    });
  }
}

}  // namespace sparselinear
