// What the machine can do at most, for bench/roofline.py: how fast vectors are loaded from each level of
// the memory, in order and by rows at random places, and how many multiply-adds a second there can be.
//
//     probe THREADS [ROUNDS [MILLISECONDS]]     prints JSON; rates of all threads together
//
// All threads begin a sample together, and its rate is that of the slowest. Nothing here is particular to a
// processor: vectors are those of the compiler, as in the kernels.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#if defined(__AVX512F__)
#define REGISTER "v"
constexpr int kVectorBytes = 64, kChains = 24;
#elif defined(__AVX__)
#define REGISTER "x"
constexpr int kVectorBytes = 32, kChains = 12;  // of 16 registers
#elif defined(__aarch64__)
#define REGISTER "w"
constexpr int kVectorBytes = 16, kChains = 24;
#else
#define REGISTER "x"
constexpr int kVectorBytes = 16, kChains = 12;
#endif
typedef float Vector __attribute__((vector_size(kVectorBytes)));
constexpr size_t kKiB = 1 << 10, kMiB = 1 << 20, kHugePage = 2 * kMiB;

static int threads = 1, rounds = 15;
static double sample_s = 0.02;

// For the compiler v is needed here, in a register: the load of it cannot be left out.
static inline void need(const Vector& v) {
  asm volatile("" : : REGISTER(v));
}

// And here it could be anything, so that two such values are never taken for one.
static inline void forget(Vector& v) {
  asm volatile("" : "+" REGISTER(v));
}

static double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Memory that was written to, in pages of 4 KiB or in huge ones.
class Table {
 public:
  Table(size_t bytes, bool huge) : bytes_((bytes + kHugePage - 1) / kHugePage * kHugePage) {
    data_ = static_cast<float*>(std::aligned_alloc(kHugePage, bytes_));
    if (!data_) {
      std::fprintf(stderr, "no memory for a table of %zu bytes\n", bytes);
      std::exit(1);
    }
#ifdef MADV_HUGEPAGE
    madvise(data_, bytes_, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#endif
    std::fill(data_, data_ + bytes / sizeof(float), 1.0f);
  }
  ~Table() {
    std::free(data_);
  }
  Table(const Table&) = delete;
  const float* data() const {
    return data_;
  }

 private:
  float* data_;
  size_t bytes_;
};

using Run = std::function<void(int64_t repeats)>;

// Runs of all threads a second, one for each sample. `make(thread)` is called on the thread that will run.
static std::vector<double> measure(const std::function<Run(int thread)>& make) {
  std::vector<std::vector<double>> begin(rounds, std::vector<double>(threads)), end = begin;
  std::barrier together(threads);
  int64_t repeats = 1;
  const auto work = [&](int thread) {
    const Run run = make(thread);
    run(1);
    together.arrive_and_wait();
    if (thread == 0) {
      double taken = 0;
      for (;; repeats *= 2) {
        const double start = now();
        run(repeats);
        taken = now() - start;
        if (taken > sample_s / 8) break;
      }
      repeats = std::max<int64_t>(1, static_cast<int64_t>(repeats * sample_s / taken));
    }
    together.arrive_and_wait();
    run(std::min<int64_t>(repeats, 2));
    for (int round = 0; round < rounds; ++round) {
      together.arrive_and_wait();
      begin[round][thread] = now();
      run(repeats);
      end[round][thread] = now();
    }
  };
  std::vector<std::thread> pool;
  for (int thread = 1; thread < threads; ++thread) pool.emplace_back(work, thread);
  work(0);
  for (auto& thread : pool) thread.join();
  std::vector<double> rates;
  for (int round = 0; round < rounds; ++round) {
    const double first = *std::min_element(begin[round].begin(), begin[round].end());
    const double last = *std::max_element(end[round].begin(), end[round].end());
    rates.push_back(threads * repeats / (last - first));
  }
  std::sort(rates.begin(), rates.end());
  return rates;
}

// {"name": ..., `fields`, "median": ..., "best": ...}, of rates times `unit`.
static void print(const char* fields, const std::vector<double>& rates, double unit,
                  const char* after = ",") {
  std::printf("  {%s, \"median\": %.4g, \"best\": %.4g}%s\n", fields, rates[rates.size() / 2] * unit,
              rates.back() * unit, after);
  std::fflush(stdout);
}

// Loads of a working set of each thread's own, in order, again and again.
static void sequential(const char* name, size_t bytes, const char* after = ",") {
  constexpr size_t kUnroll = 8, kStep = kUnroll * kVectorBytes / sizeof(float);
  bytes = bytes / kKiB * kKiB;
  const auto rates = measure([&](int) -> Run {
    auto table = std::make_shared<Table>(bytes, true);
    return [=](int64_t repeats) {
      const float *first = table->data(), *last = first + bytes / sizeof(float);
      for (; repeats > 0; --repeats)
        for (const float* p = first; p < last; p += kStep)
#pragma GCC unroll 8
          for (size_t i = 0; i < kUnroll; ++i) need(reinterpret_cast<const Vector*>(p)[i]);
    };
  });
  char fields[128];
  std::snprintf(fields, sizeof fields, "\"name\": \"%s\", \"bytes\": %zu", name, bytes);
  print(fields, rates, bytes * 1e-9, after);
}

// All vectors of the rows that `index` names, fetched `ahead` rows before they are needed if that is not 0.
template <int kRowBytes>
static void load_rows(const float* table, const std::vector<int32_t>& index, int64_t ahead) {
  constexpr size_t kFloats = kRowBytes / sizeof(float);
  const int64_t count = static_cast<int64_t>(index.size()) - 64;
  for (int64_t k = 0; k < count; ++k) {
    const float* row = table + index[k] * kFloats;
    if (ahead)
      for (int line = 0; line < kRowBytes; line += 64)
        __builtin_prefetch(reinterpret_cast<const char*>(table + index[k + ahead] * kFloats) + line);
#pragma GCC unroll 16
    for (int i = 0; i < kRowBytes / kVectorBytes; ++i) need(reinterpret_cast<const Vector*>(row)[i]);
  }
}

// Loads of whole rows at random places: of a table of each thread's own, or of one that all share.
template <int kRowBytes>
static void gather(const char* name, size_t bytes, bool shared, bool huge, int64_t ahead,
                   const char* after = ",") {
  const int64_t rows = bytes / kRowBytes, count = shared ? 1 << 18 : 1 << 14;
  const auto common = shared ? std::make_shared<Table>(bytes, huge) : nullptr;
  const auto rates = measure([&](int thread) -> Run {
    auto table = shared ? common : std::make_shared<Table>(bytes, huge);
    std::mt19937 random(thread);
    std::vector<int32_t> index(count + 64);  // as far as anything is fetched ahead
    for (auto& i : index) i = static_cast<int32_t>(random() % rows);
    return [=](int64_t repeats) {
      for (; repeats > 0; --repeats) load_rows<kRowBytes>(table->data(), index, ahead);
    };
  });
  char fields[192];
  std::snprintf(fields, sizeof fields,
                "\"name\": \"%s\", \"bytes\": %zu, \"row_bytes\": %d, \"pages\": \"%s\", \"ahead\": %d", name,
                bytes, kRowBytes, huge ? "huge" : "4 KiB", static_cast<int>(ahead));
  print(fields, rates, count * 1e-9 * kRowBytes, after);
}

// Multiply-adds on independent chains. What the chains begin with is hidden from the compiler: it makes one
// of those that it knows to be equal, and what is then measured is a latency.
static void multiply_add() {
  constexpr int64_t kSteps = 4096;
  const auto rates = measure([&](int) -> Run {
    return [](int64_t repeats) {
      Vector chain[kChains] = {}, factor = chain[0] + 0.5f, term = chain[0] + 0.25f;
      forget(factor);
      forget(term);
      for (auto& c : chain) forget(c);
      for (repeats *= kSteps; repeats > 0; --repeats)
#pragma GCC unroll 24
        for (int c = 0; c < kChains; ++c) chain[c] = chain[c] * factor + term;
      for (auto& c : chain) need(c);
    };
  });
  print("\"unit\": \"GFLOP/s\"", rates, kSteps * kChains * 2e-9 * (kVectorBytes / sizeof(float)));
}

// Additions of which each needs the one before: one a cycle, so this is the clock of one core, in GHz.
static void clock_rate() {
  constexpr int64_t kSteps = 4096;
  const auto rates = measure([](int) -> Run {
    return [](int64_t repeats) {
      uint64_t sum = 0, term = 1;
      asm volatile("" : "+r"(term));  // a register: constants may be added for nothing
      for (repeats *= kSteps; repeats > 0; --repeats)
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
          sum += term;
          asm volatile("" : "+r"(sum));
        }
    };
  });
  print("\"unit\": \"GHz\"", rates, 16e-9 * kSteps / threads);
}

// Bytes of the data cache of a level, as rules.h asks for it.
static size_t cache_size(int level) {
#ifdef _SC_LEVEL1_DCACHE_SIZE
  const long size = sysconf(level == 1 ? _SC_LEVEL1_DCACHE_SIZE : _SC_LEVEL2_CACHE_SIZE);
  if (size > 0) return size;
#endif
  return level == 1 ? 32 * kKiB : kMiB;
}

int main(int argc, char** argv) {
  if (argc > 1) threads = std::max(1, std::atoi(argv[1]));
  if (argc > 2) rounds = std::max(1, std::atoi(argv[2]));
  if (argc > 3) sample_s = std::max(1, std::atoi(argv[3])) * 1e-3;
  const size_t half = cache_size(2) / 2, large = 25'600'000;
  std::printf("{\"threads\": %d, \"vector_bytes\": %d, \"l1_bytes\": %zu, \"l2_bytes\": %zu,\n", threads,
              kVectorBytes, cache_size(1), cache_size(2));
  std::printf(" \"clock\":\n");
  clock_rate();
  std::printf(" \"multiply_add\":\n");
  multiply_add();
  std::printf(" \"load\": [\n");
  sequential("L1", 24 * kKiB);
  sequential("L2", half);
  for (size_t mib : {16, 32}) sequential("LLC", mib * kMiB);
  for (size_t mib : {64, 128}) sequential("beyond", mib * kMiB);  // LLC or DRAM: as large as the LLC is
  sequential("DRAM", 512 * kMiB, "],");
  std::printf(" \"gather\": [\n");
  gather<128>("L2", half, false, true, 0);
  gather<256>("L2", half, false, true, 0);
  for (bool huge : {false, true})
    for (int64_t ahead : {0, 16, 32, 64}) {
      gather<128>("LLC", large, true, huge, ahead);
      gather<256>("LLC", large, true, huge, ahead, huge && ahead == 64 ? "]}" : ",");
    }
}
