// How work is shared among torch's threads: tasks drawn from one counter.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace sparselinear {

// Runs task(0) ... task(count - 1), each once, on torch's own pool. Which thread runs which is left to
// chance, so a core that is busy elsewhere delays one task and not its share: nothing may depend on it.
template <class Task>
void for_each_task(int64_t count, const Task& task) {
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), count);
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(i);
  });
}

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace sparselinear
