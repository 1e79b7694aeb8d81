// How work is shared among torch's threads: tasks, in ranges that threads begin with and share at the end.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

namespace sparselinear {

// Runs task(0) ... task(count - 1), each once, on torch's own pool. Each thread begins with a range of its
// own, in order, so that tasks that meet the same memory again meet it in the same cache; when it is through,
// it helps the others with theirs, so a core that is busy elsewhere delays one task and not its share. Which
// thread runs which is thus left to chance: nothing may depend on it.
inline void run_tasks(int64_t count, void (*run)(const void* task, int64_t i), const void* task) {
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), count);
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) run(task, i);
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
      for (int64_t i; (i = next[range].task.fetch_add(1, std::memory_order_relaxed)) < end;) run(task, i);
    }
  });
}

// By way of a pointer, so that the compiler makes one copy of what a task does, and none of the above.
template <class Task>
void for_each_task(int64_t count, const Task& task) {
  run_tasks(count, [](const void* of, int64_t i) { (*static_cast<const Task*>(of))(i); }, &task);
}

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

inline int64_t round_up(int64_t n, int64_t to) {
  return ceil_div(n, to) * to;
}

}  // namespace sparselinear
