// Scratch memory for panels, kept between calls: to page in a fresh megabyte takes as long as to pack it.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

namespace sparselinear {

constexpr size_t kHugePage = size_t{2} << 20;

// Asks for memory that is not there yet to come in huge pages, where it spans them.
inline void ask_for_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#ifdef MADV_HUGEPAGE
  const auto begin = reinterpret_cast<uintptr_t>(data), end = (begin + bytes) / kHugePage * kHugePage,
             first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

class Scratch {
 public:
  explicit Scratch(size_t bytes) : bytes_((bytes + kHugePage - 1) / kHugePage * kHugePage) {
    if (bytes == 0) return;
    {
      std::lock_guard<std::mutex> lock(mutex());
      auto& kept = Scratch::kept();
      for (auto block = kept.begin(); block != kept.end(); ++block)
        if (block->bytes >= bytes_ && block->bytes <= 2 * bytes_ + kHugePage) {
          data_ = block->data;
          bytes_ = block->bytes;
          kept.erase(block);
          return;
        }
    }
    data_ = std::aligned_alloc(kHugePage, bytes_);
    if (!data_) throw std::bad_alloc();
    ask_for_huge_pages(data_, bytes_);
  }
  // Room for it is made by what has waited the longest: a large layer leaves small ones theirs, and a model
  // that is gone leaves nothing in the way.
  ~Scratch() {
    if (!data_) return;
    if (bytes_ > kMostKept) {
      std::free(data_);
      return;
    }
    std::lock_guard<std::mutex> lock(mutex());
    auto& kept = Scratch::kept();
    kept.push_back({data_, bytes_});
    size_t held = 0;
    for (const auto& block : kept) held += block.bytes;
    while (held > kMostKept) {
      held -= kept.front().bytes;
      std::free(kept.front().data);
      kept.erase(kept.begin());
    }
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  static constexpr size_t kMostKept = size_t{64} << 20;
  struct Block {
    void* data;
    size_t bytes;
  };
  static std::mutex& mutex() {
    static std::mutex m;
    return m;
  }
  static std::vector<Block>& kept() {
    static auto* blocks = new std::vector<Block>();  // outlives the threads that may still use it
    return *blocks;
  }
  void* data_ = nullptr;
  size_t bytes_;
};

}  // namespace sparselinear
