// What a page holds, in 16 bytes: XXH3-128. Finds damage and equal pages; no defence against
// malice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace baton::store {

inline constexpr std::size_t kPageBytes = 4096;

struct PageHash {
  std::uint64_t low = 0;
  std::uint64_t high = 0;
  friend bool operator==(const PageHash&, const PageHash&) = default;
};

PageHash hash_page(const char* page);
// The same for content of any size.
PageHash hash_whole(std::string_view content);
// Of kPageBytes zeroes.
const PageHash& zero_page_hash();

}  // namespace baton::store
