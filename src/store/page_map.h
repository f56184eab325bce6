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

struct MapRun {
  std::uint64_t address = 0;
  std::uint64_t pages = 0;
  std::uint32_t pack = 0;   // index into PageMap::packs, or kZeroPages
  std::uint32_t first = 0;  // number of the first page in that pack; 0 for zeroes

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
// Damaged when it is not what encode_page_map() can have written.
Result<PageMap> decode_page_map(std::string_view bytes);

}  // namespace baton::store
