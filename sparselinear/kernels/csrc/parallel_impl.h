// Definition of what parallel.h declares, on torch's own pool of threads. For native.cpp alone, which reads
// torch's headers as it is: a unit more that reads them takes 2 seconds to compile.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "parallel.h"

namespace sparselinear {

int64_t thread_count() {
  return torch::stable::get_num_threads();
}

void run_ranges(int64_t count, int64_t grain, void (*run)(const void* work, int64_t first, int64_t last),
                const void* work) {
  torch::stable::parallel_for(0, count, grain, [=](int64_t first, int64_t last) { run(work, first, last); });
}

void run_tasks(int64_t count, void (*run)(const void* work, int64_t i), const void* work) {
  const int64_t threads = std::min(thread_count(), count);
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) run(work, i);
    return;
  }
  struct alignas(64) Next {
    std::atomic<int64_t> task;
  };
  std::vector<Next> next(threads);
  const auto begin_of = [&](int64_t range) { return count * range / threads; };
  for (int64_t r = 0; r < threads; ++r) next[r].task = begin_of(r);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t first, int64_t) {
    for (int64_t r = 0; r < threads; ++r) {
      const int64_t range = (first + r) % threads, end = begin_of(range + 1);
      for (int64_t i; (i = next[range].task.fetch_add(1, std::memory_order_relaxed)) < end;) run(work, i);
    }
  });
}

}  // namespace sparselinear
