// The newest copies of an address space's pages: where each lies in the sandbox's packs.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "agent/engine/page_packs.h"
#include "agent/engine/page_set.h"
#include "base/result.h"
#include "store/page_map.h"

namespace baton::agent {

// About 24 bytes of memory for a page. A page that is put again with the content it had costs no
// room in the packs, also after it was forgotten. Used by one thread at a time; `packs` outlives
// it.
class PageStore {
 public:
  explicit PageStore(PagePacks& packs) : packs_(&packs) {}

  // Whole pages at page-aligned addresses. After an error the packs are void.
  Status put(std::uint64_t address, std::span<const char> content);
  // Not held any more: to be put again before it counts.
  void forget(const PageSet& pages);
  void forget_all();
  // Drops all others for good.
  void keep_only(const PageSet& pages);
  // Content that the pages may still have; none of them is held by this. `pack_numbers`: of
  // map.packs.
  Status remember(const store::PageMap& map, std::span<const std::uint32_t> pack_numbers);

  PageSet missing(const PageSet& wanted) const;
  std::uint64_t pages_held() const { return pages_held_; }

  // All that is held, for a checkpoint. The packs must be sealed.
  store::PageMap map() const;
  // As it is stored, and the packs that it names. After draft_map(), which tells the packs so far,
  // only what has changed is added to that; the draft is gone then. The packs must be sealed for
  // both.
  struct EncodedMap {
    std::string bytes;
    std::vector<std::string> packs;  // their hashes
  };
  EncodedMap take_encoded_map();
  const std::vector<std::string>& draft_map();
  // Calls `visit` for each page held that is in a pack; it may change the location.
  Status for_each(const std::function<Status(PageLocation&, const store::PageHash&)>& visit);

 private:
  static constexpr std::uint64_t chunk_pages = 512;
  static constexpr std::uint64_t chunk_bytes = chunk_pages * sys::page_bytes;
  // 2 MiB of addresses.
  struct Chunk {
    std::bitset<chunk_pages> held;
    std::bitset<chunk_pages> known;    // location and hash are those of some content it had
    std::bitset<chunk_pages> changed;  // since the map was drafted
    std::array<PageLocation, chunk_pages> location;
    std::array<store::PageHash, chunk_pages> hash;
  };

  struct Draft {
    EncodedMap map;
    std::set<std::uint64_t> dropped;  // chunks that were in it
  };

  Chunk& chunk_at(std::uint64_t number);
  Status put_page(Chunk& chunk, std::uint64_t index, const char* content);
  void set_held(Chunk& chunk, std::uint64_t index, bool held);
  template <typename Visit>
  void in_chunks(const PageSet& pages, Visit visit);
  void name_packs(store::PageMap& map) const;
  store::PageMap changes() const;

  PagePacks* packs_;
  std::map<std::uint64_t, Chunk> chunks_;  // by address / chunk_bytes
  std::uint64_t pages_held_ = 0;
  std::optional<Draft> draft_;
};

}  // namespace baton::agent
