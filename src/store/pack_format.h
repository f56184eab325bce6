// The bytes of a pack; docs/store-format.md draws them. All figures are little-endian. Internal to
// the two files that include it.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "store/page_hash.h"

namespace baton::store::pack_format {

static_assert(std::endian::native == std::endian::little,
              "figures are stored as they lie in memory");

inline constexpr std::array<char, 8> kHeadMagic = {'B', 'A', 'T', 'N', 'P', 'A', 'C', 'K'};
inline constexpr std::array<char, 8> kFootMagic = {'B', 'A', 'T', 'N', 'S', 'E', 'A', 'L'};
inline constexpr std::uint32_t kVersion = 1;

struct Head {
  std::array<char, 8> magic = kHeadMagic;
  std::uint32_t version = kVersion;
  std::uint32_t page_bytes = kPageBytes;
};

enum class Codec : std::uint32_t { Stored = 0, Lz4 = 1 };

struct Extent {
  std::uint64_t offset = 0;
  std::uint32_t stored_bytes = 0;
  Codec codec = Codec::Stored;
};

struct Foot {
  std::uint64_t index_offset = 0;
  std::uint32_t pages = 0;
  std::uint32_t extents = 0;
  PageHash index_hash;
  std::array<char, 8> magic = kFootMagic;
};

static_assert(sizeof(Head) == 16 && sizeof(Extent) == 16 && sizeof(Foot) == 40 &&
              sizeof(PageHash) == 16);

}  // namespace baton::store::pack_format
