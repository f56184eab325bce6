// In which order the pages of a process are brought back: those first that were written last, and
// what lies together in a pack together, so that nothing is decompressed twice. Internal to the
// engine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "store/page_map.h"

namespace baton::agent {

// Consecutive pages of a pack that belong to consecutive addresses.
struct CopyPiece {
  std::uint64_t address = 0;
  std::uint32_t first = 0;  // in the pack
  std::uint32_t pages = 0;
};

// So many pages of a pack, and where they belong. What lies between the pieces belongs nowhere.
struct CopyStep {
  std::uint32_t pack = 0;   // index into PageMap::packs
  std::uint32_t first = 0;  // of the first piece
  std::uint32_t pages = 0;  // up to the end of the last one; kMostPages at most
  std::span<const CopyPiece> pieces;
};

// The runs of the newest packs of a map: as few as have so many pages together. Pages may be named
// that were written long ago, but in no pack before these.
store::PageMap newest_pages(const store::PageMap& map, std::uint64_t pages);

// Thread-compatible.
class CopyPlan {
 public:
  // A cache's worth, and a multiple of what a pack compresses together.
  static constexpr std::uint32_t kMostPages = 64;

  CopyPlan() = default;
  explicit CopyPlan(const store::PageMap& map);
  // Its pieces stay where they are as long as the plan lives.
  std::optional<CopyStep> next();

 private:
  struct Pack {
    std::uint32_t number = 0;
    std::vector<CopyPiece> pieces;  // by `first`
  };
  std::vector<Pack> packs_;           // to be copied in this order
  std::size_t pack_ = 0, piece_ = 0;  // the next
};

}  // namespace baton::agent
