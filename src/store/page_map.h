// Which pages an address space has, and in which pack each lies. Flat: it names every page, so
// nothing but the packs is needed to read it. docs/store-format.md has the format.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace baton::store {

// In place of a pack: the pages hold zeroes and are stored nowhere.
inline constexpr std::uint32_t kZeroPages = UINT32_MAX;
// The same, among changes only: the pages are there no more.
inline constexpr std::uint32_t kNoPages = UINT32_MAX - 1;
// Whether it is a pack.
constexpr bool is_pack(std::uint32_t pack) { return pack < kNoPages; }

struct MapRun {
  std::uint64_t address = 0;
  std::uint64_t pages = 0;
  std::uint32_t pack = 0;   // index into PageMap::packs, or kZeroPages
  std::uint32_t first = 0;  // number of the first page in that pack; 0 where there is none

  friend bool operator==(const MapRun&, const MapRun&) = default;
};

struct MapPack {
  std::string hash;  // its name
  std::uint32_t pages = 0;

  friend bool operator==(const MapPack&, const MapPack&) = default;
};

struct PageMap {
  std::vector<MapPack> packs;
  std::vector<MapRun> runs;  // ascending by address, disjoint

  std::uint64_t pages() const;
  // Behind all runs; joins with the last one where it continues it.
  void append(const MapRun& run);

  friend bool operator==(const PageMap&, const PageMap&) = default;
};

std::string encode_page_map(const PageMap& map);
// For when a program stands still: `before` is what encode_page_map() made of the map some time
// ago, `changes` has the pages that are others, elsewhere or gone (kNoPages) since.
std::string encode_changed_map(std::string before, const PageMap& changes);
// Of either. Damaged when it is not what these can have written.
Result<PageMap> decode_page_map(std::string_view bytes);

}  // namespace baton::store
