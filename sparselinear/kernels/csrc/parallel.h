// How work is shared among torch's threads: ranges, or tasks, which threads begin with and share at the end.
#pragma once

#include <cstdint>

namespace sparselinear {

// The threads that torch uses.
int64_t thread_count();

// Calls run(work, first, last) for ranges of 0 ... count - 1 of `grain` or more, side by side.
void run_ranges(int64_t count, int64_t grain, void (*run)(const void* work, int64_t first, int64_t last),
                const void* work);

// Calls run(work, i) for 0 ... count - 1, each once. Each thread begins with a range of its own, in order, so
// that tasks that meet the same memory again meet it in the same cache; when it is through, it helps the
// others with theirs, so a core that is busy elsewhere delays one task and not its share. Which thread runs
// which is thus left to chance: nothing may depend on it.
void run_tasks(int64_t count, void (*run)(const void* work, int64_t i), const void* work);

// Calls range(first, last) as run_ranges does. Here and below by way of a pointer, so that the compiler makes
// one copy of what a task does.
template <class Range>
void parallel_for(int64_t count, int64_t grain, const Range& range) {
  run_ranges(
      count, grain,
      [](const void* work, int64_t first, int64_t last) { (*static_cast<const Range*>(work))(first, last); },
      &range);
}

// Calls task(i) as run_tasks does.
template <class Task>
void for_each_task(int64_t count, const Task& task) {
  run_tasks(count, [](const void* work, int64_t i) { (*static_cast<const Task*>(work))(i); }, &task);
}

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

inline int64_t round_up(int64_t n, int64_t to) {
  return ceil_div(n, to) * to;
}

}  // namespace sparselinear
