// Pages that carry an invariant: all of a page follows from its number and its version.
#pragma once

#include <time.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace memwork {

constexpr std::size_t page_words = 512;
constexpr std::size_t page_bytes = 4096;

// What went wrong first, or null. Threads and children report here.
inline std::atomic<const char*> failure{nullptr};
inline bool failed(const char* what) {
  const char* none = nullptr;
  failure.compare_exchange_strong(none, what);
  return false;
}

inline std::int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1'000'000'000ll + t.tv_nsec;
}

struct Random {
  std::uint64_t state;
  std::uint64_t next() {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
  }
  std::uint64_t below(std::uint64_t limit) { return next() % limit; }
};

inline std::uint64_t word_of(std::uint64_t page, std::uint64_t version, std::uint64_t index) {
  return (page * 0x9e3779b97f4a7c15ull ^ version * 0xc2b2ae3d27d4eb4full) + index;
}

inline void fill(std::uint64_t* memory, std::uint64_t page, std::uint64_t version) {
  for (std::size_t i = 0; i < page_words; ++i) memory[i] = word_of(page, version, i);
}

inline bool check(const std::uint64_t* memory, std::uint64_t page, std::uint64_t version) {
  for (std::size_t i = 0; i < page_words; ++i)
    if (memory[i] != (version ? word_of(page, version, i) : 0)) return false;
  return true;
}

}  // namespace memwork
