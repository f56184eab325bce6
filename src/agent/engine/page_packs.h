// The packs that hold the copied pages of one sandbox: closed ones, and the one being filled.
// Thread-compatible: one thread at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "base/result.h"
#include "store/pack.h"

namespace baton::agent {

// Where a copy of a page lies.
struct PageLocation {
  std::uint32_t pack = 0;  // PagePacks' own number; 0: nowhere, its content is zeroes
  std::uint32_t page = 0;  // its number in the pack
  friend bool operator==(const PageLocation&, const PageLocation&) = default;
};

class PagePacks {
 public:
  struct Pack {
    std::string hash;  // empty: it is still being filled
    std::uint32_t pages = 0;
  };
  struct Added {
    std::uint64_t pages = 0;
    std::uint64_t bytes = 0;  // of packs that were sealed
  };

  // Empties `directory`. Packs lie there under their hashes while they are listed here.
  static Result<std::unique_ptr<PagePacks>> create(std::filesystem::path directory);

  // Stores a page that is not of zeroes. After an error all packs and locations are void, and every
  // later call fails.
  Result<PageLocation> add(const char* page, const store::PageHash& hash);
  // Off in a freeze, where time matters more than room.
  void set_compression(bool on);
  // Closes the pack being filled. After this every location is in a pack with a name.
  Status seal();
  // Takes in a pack that exists elsewhere (a hard link or a copy). Returns its number.
  Result<std::uint32_t> adopt(const std::filesystem::path& file, const std::string& hash,
                              std::uint32_t pages);
  // Nothing in the pack is needed any more.
  Status drop(std::uint32_t number);

  bool broken() const { return broken_; }
  const std::map<std::uint32_t, Pack>& packs() const { return packs_; }
  std::filesystem::path path(const Pack& pack) const { return directory_ / pack.hash; }
  // Since the last take_added(), adopted ones not counted.
  const Added& added() const { return added_; }
  Added take_added() { return std::exchange(added_, {}); }

 private:
  explicit PagePacks(std::filesystem::path directory) : directory_(std::move(directory)) {}

  const std::filesystem::path directory_;
  std::map<std::uint32_t, Pack> packs_;
  std::uint32_t next_ = 1;
  std::uint32_t open_ = 0;  // number of the one that writer_ fills
  std::unique_ptr<store::PackWriter> writer_;
  bool compress_ = true;
  bool broken_ = false;
  Added added_;
};

}  // namespace baton::agent
